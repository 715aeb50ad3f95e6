"""Networks that measure and never train, and the images they look at."""
