"""The bundled benchmark: real emoji from pip packages, its protocols, and an alignment score for it.

Floor 7. Imports `evaluation` and what stands below. `import e2ed2.emoji.protocols` adds its protocols and metrics.
"""
