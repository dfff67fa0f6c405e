"""Attacks on vision features, white-box and transferred, each against any objective and budget.

- `budget`: what an attacker may change, l2 and l-infinity balls of 8-bit pictures
- `seen`: what an attacker differentiates, the bare encoder, or purifier, mapper and noise
- `objectives`: what an attacker wants of the features
- `descent`: how it gets there, PGD and APGD
"""
