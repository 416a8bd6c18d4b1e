"""A drawn photo with a known subject, and the overlap of masks, for the tests of segmentation."""

import numpy as np
from PIL import Image


def scene(height, width, seed=0):
    """Draw a red disc on green with noise: (H, W, 3) uint8, and the disc's mask, (H, W) bool."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    disc = (y - 0.4 * height) ** 2 + (x - 0.6 * width) ** 2 < (0.35 * min(height, width)) ** 2
    colours = np.where(disc[..., None], (220, 60, 40), (60, 120, 60))
    noise = random.integers(-20, 21, colours.shape)
    return (colours + noise).clip(0, 255).astype(np.uint8), disc


def save_scenes(folder, count, height=60, width=90):
    """Write scenes as `photos/N.png`, and their masks as `mask-N.png`; return the folder."""
    (folder / "photos").mkdir()
    for seed in range(count):
        image, disc = scene(height, width, seed)
        Image.fromarray(image).save(folder / "photos" / f"{seed}.png")
        Image.fromarray(disc).save(folder / f"mask-{seed}.png")
    return folder


def iou(first, second):
    """Return the intersection over union of two masks."""
    return (first & second).sum() / (first | second).sum()
