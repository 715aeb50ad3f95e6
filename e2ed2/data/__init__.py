"""Data sources: captioned images in, `ImageTextSet` out."""
