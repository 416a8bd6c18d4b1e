"""What a run leaves: the model in the formats that others read, its card, its place on the hub."""
