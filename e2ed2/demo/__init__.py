"""`e2ed2 demo`: the paper's claim on a laptop.

Floor 11. Puts the verbs below to use.
"""
