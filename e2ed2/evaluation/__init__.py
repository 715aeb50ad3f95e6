"""How good samples are: features, distances between sets, agreement with captions, diversity, sharpness."""
