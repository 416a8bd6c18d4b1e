"""What keeps a run going: optimizer, checkpoints, signals, memory, several processes."""
