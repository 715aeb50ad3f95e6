"""Captioned images: where they come from, decoding, order, shapes, streams, the cache.

Floor 3. Imports `system`; knows no model and no training.
"""
