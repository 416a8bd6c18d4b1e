"""Scores: of one-shot segmentation on public benchmarks, and of what trained models draw."""
