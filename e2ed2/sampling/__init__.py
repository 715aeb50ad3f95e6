"""Seeded samples of any model or baseline, as files that an interrupted run goes on from.

Floor 5. Imports `models` and what stands below.
"""
