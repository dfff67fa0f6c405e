"""Benchmarks behind `fcs bench`: each prints a table and one JSON line."""
