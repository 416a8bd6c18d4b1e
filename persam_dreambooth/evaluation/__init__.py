"""Evaluation of one-shot segmentation on public benchmarks, and of the images that trained models generate."""
