"""`e2ed2 watch`: the runs of a folder on one local page: looked at while they train, compared, tried, started.

Floor 11. Imports all rooms below but demo.
"""
