"""The audit log: every certificate that was issued, in append-only files of signed JSON lines.

lines.py    records -> signed lines, each with the digest of the line before it
files.py    the file that is written: locked, healed, numbered when it is full
log.py      what the core calls; whether the log can be written
entries.py  answers -> records
reading.py  the files, checked; the records of one request
"""
