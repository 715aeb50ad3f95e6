"""What a recipe may say: typed sections, reading with overrides, and the checks that need the recipe alone.

Floor 3. Imports `system`, and of `data` the shapes of buckets.
"""
