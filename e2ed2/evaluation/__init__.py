"""One path from a protocol's prompts to figures with intervals.

Floor 6. Imports `sampling` and what stands below; knows neither training nor the emoji benchmark. Protocols and metrics
are looked up in tables (`protocols.KINDS`, `metrics.table.METRICS`) that rooms above add to.
"""
