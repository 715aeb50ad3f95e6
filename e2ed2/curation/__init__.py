"""`e2ed2 curate`: from rows that name images to captioned shards, with a manifest of everything that was read."""
