"""`make fuzz`: decoder and parsers under atheris, the served API under schemathesis.

In an environment of its own; pytest collects nothing here.
"""
