"""A drawn photo with a known subject, and the overlap of masks, for the tests of segmentation."""

import numpy as np


def scene(height, width, seed=0):
    """Draw a red disc on green with noise: (H, W, 3) uint8, and the disc's mask, (H, W) bool."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    disc = (y - 0.4 * height) ** 2 + (x - 0.6 * width) ** 2 < (0.35 * min(height, width)) ** 2
    colours = np.where(disc[..., None], (220, 60, 40), (60, 120, 60))
    noise = random.integers(-20, 21, colours.shape)
    return (colours + noise).clip(0, 255).astype(np.uint8), disc


def iou(first, second):
    """Return the intersection over union of two masks."""
    return (first & second).sum() / (first | second).sum()
