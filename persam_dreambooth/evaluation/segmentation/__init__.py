"""Scores of one-shot segmentation on the public benchmarks, by their own protocols."""
