"""Training of the purifier and the mapper in front of and behind a frozen encoder (docs/psm.md)."""
