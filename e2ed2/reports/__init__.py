"""What people look at: the page of a run, tables of evaluations, pictures side by side, charts.

Floor 9. Imports all rooms below.
"""
