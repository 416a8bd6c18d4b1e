"""Public benchmarks of one-shot segmentation, each with its own protocol."""
