"""Training: typed config, the stages of the chain, one update, the loop, checkpoints, logs."""
