"""From samples to a certificate: pure, deterministic numpy/scipy; specified in docs/certificate.md.

tally.py      features, as they arrive  -> Evidence (bounded memory)
intervals.py  confidence bounds of one probability or one mean
spectrum.py   event B, the largest eigenvalue of the orthogonal part, by betting
bounds.py     the formulas: what the evidence says about every picture within a shift
joint.py      the same as one dual problem, tighter
certify.py    Evidence -> Findings: the alpha is spent here, once
statement.py  Findings -> one sentence a person can read
"""
