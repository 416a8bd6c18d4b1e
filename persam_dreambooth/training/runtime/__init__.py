"""Everything around the training loop: optimizer, checkpoints, signals, memory, distributed training."""
