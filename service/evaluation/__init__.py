"""Adversaries against the certificates: adaptive attacks, and how their success is judged."""
