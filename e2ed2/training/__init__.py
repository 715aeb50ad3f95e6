"""Training: the loop, one update, checkpoints, the run folder, measuring meanwhile.

Floor 8. Imports all rooms below; knows no reports.
"""
