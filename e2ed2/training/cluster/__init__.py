"""Several processes: in shards (FSDP2), checkpoints of them, and whether all are of one mind."""
