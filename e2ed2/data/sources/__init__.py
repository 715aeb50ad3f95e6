"""Where captioned images come from: folders, tables, tar shards, the hub."""
