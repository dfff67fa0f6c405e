"""Who may ask, and how much: API keys, budgets, and requests in work at a time.

One decision for both doors, made before a byte of a request's body is read.
"""
