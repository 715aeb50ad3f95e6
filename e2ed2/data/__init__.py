"""Captioned images: where they come from, how they are decoded, in which order, and what is kept of them."""
