"""Output of a run: the model in common formats, its model card, its upload to the hub."""
