"""Clean up a mask: fill small holes and remove small specks, as SAM's mask generator does."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TOUCHING = np.ones((3, 3), bool)
"""Pixels belong to one region if they share an edge or a corner."""


def without_small_regions(
    mask: NDArray[np.bool_], min_region: int, taken: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Fill holes of fewer than `min_region` pixels, then remove specks of fewer.

    The largest region stays whatever its size, so that a mask never becomes empty.

    Args:
        mask: (H, W) bool.
        min_region: number of pixels of the smallest region, of the mask or of its background, that stays.
        taken: (H, W) bool, background that is not filled, because it belongs to another mask; None for none.

    Returns:
        (H, W) bool, a new array.
    """
    holes = _small(~mask, min_region)
    filled = mask | (holes if taken is None else holes & ~taken)
    return filled & ~_small(filled, min_region, keep_largest=True)


def _small(mask: NDArray[np.bool_], min_region: int, keep_largest: bool = False) -> NDArray[np.bool_]:
    """Return the pixels of the regions of a mask that have fewer than `min_region` pixels, (H, W) bool."""
    regions, _ = ndimage.label(mask, TOUCHING)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    small = sizes < min_region
    if keep_largest:
        small[sizes.argmax()] = False
    small[0] = False  # what is not in the mask
    found: NDArray[np.bool_] = small[regions]
    return found
