"""Model folders: found, read, written, and the card that says how to call the model."""
