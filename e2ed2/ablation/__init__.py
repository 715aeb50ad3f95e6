"""`e2ed2 ablate`: suites of rows trained and measured over seeds, and their table.

Floor 10. Imports all rooms below, and none of its own floor.
"""
