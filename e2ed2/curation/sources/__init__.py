"""Where rows come from: a folder, tar shards, tables of addresses or of images."""
