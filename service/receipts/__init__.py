"""Receipts: what was promised for one picture, signed, with all that is needed to recompute it.

canonical.py  JSON values -> the one byte form that is signed (RFC 8785)
signing.py    the Ed25519 key: read, made once, trusted
receipt.py    the form; an answer -> its signed receipt
reading.py    a file, of a receipt or of a whole saved response -> `Receipt`
compare.py    receipt and replay -> what differs
"""
