"""Labels: what a generated image says of itself (metadata, a signed manifest, a mark in its pixels), and reading them.

Floor 10. Rooms below get a label from the face, as a function; only this room knows what is in one.
"""
