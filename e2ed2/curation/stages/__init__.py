"""The stages: one file each, with one function on a batch of rows, and a line in `table.py`."""
