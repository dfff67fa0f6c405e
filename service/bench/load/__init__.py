"""`fcs bench load`: many requests of several kinds, through both doors, every one accounted for."""
