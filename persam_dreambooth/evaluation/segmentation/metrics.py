"""Metrics of a mask against the ground truth: IoU, accuracy, Boundary IoU, and the J and F of DAVIS."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from persam_dreambooth.errors import UserError

BAND = 0.02
"""Width of Boundary IoU's band, as a share of the image's diagonal (Cheng et al. 2021)."""
TOLERANCE = 0.008
"""Largest distance of matching contours for DAVIS's F, as a share of the image's diagonal."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Overlap:
    """Pixel counts of one image, or summed over several: the protocols divide only after summing.

    Attributes:
        intersection, union: of the found and the true mask.
        target: of the true mask.
    """

    intersection: int
    union: int
    target: int

    def __add__(self, other: Self) -> "Overlap":
        return Overlap(self.intersection + other.intersection, self.union + other.union, self.target + other.target)

    @property
    def iou(self) -> float:
        """sum(I) / sum(U); 1 if both masks are empty, since they are equal."""
        return self.intersection / self.union if self.union else 1.0

    @property
    def accuracy(self) -> float:
        """sum(I) / sum(target), the share of the subject that was found; 1 if the target is empty."""
        return self.intersection / self.target if self.target else 1.0


def overlap(found: Mask, true: Mask, void: Mask | None = None) -> Overlap:
    """Count the pixels of two (H, W) bool masks, ignoring those in `void`, (H, W) bool.

    The `iou` of the result is the J of DAVIS.

    Raises:
        UserError: masks of different sizes.
    """
    found, true = _same_size(found, true, void)
    return Overlap(int((found & true).sum()), int((found | true).sum()), int(true.sum()))


def boundary_overlap(found: Mask, true: Mask, void: Mask | None = None) -> Overlap:
    """Count the pixels of the bands along both boundaries: the `iou` is Boundary IoU (Cheng et al. 2021).

    Arguments and errors as for `overlap`.
    """
    found, true = _same_size(found, true, void)
    return overlap(boundary_band(found), boundary_band(true))


def boundary_band(mask: Mask, share: float = BAND) -> Mask:
    """Return the pixels of an (H, W) bool mask at most d inside its boundary; (H, W) bool.

    d = max(1, round(share * diagonal)). The image's edge counts as boundary: the mask is padded with one pixel of
    zeros before it is eroded d times by 3 x 3.
    """
    distance = max(1, round(share * math.hypot(*mask.shape)))
    outside = F.pad(torch.from_numpy(~mask)[None].float(), (1, 1, 1, 1), value=1.0)  # (1, H + 2, W + 2)
    # d erosions by 3 x 3 equal one by a square of side 2d + 1, which is separable into rows and columns.
    dilated = F.max_pool2d(outside, (1, 2 * distance + 1), 1, (0, distance))
    dilated = F.max_pool2d(dilated, (2 * distance + 1, 1), 1, (distance, 0))
    eroded = dilated[0, 1:-1, 1:-1].numpy() == 0
    return mask & ~eroded


def boundary_f(found: Mask, true: Mask, void: Mask | None = None, share: float = TOLERANCE) -> float:
    """Compute the F of DAVIS: harmonic mean of contour precision and recall, in [0, 1] (Perazzi et al. 2016).

    A contour pixel matches if the other contour is at most ceil(share * diagonal) away.

    Args:
        found, true: (H, W) bool.
        void: (H, W) bool, pixels that belong to neither mask.
        share: tolerance as a share of the diagonal.

    Raises:
        UserError: masks of different sizes.
    """
    found, true = _same_size(found, true, void)
    contours = torch.from_numpy(np.stack([contour(found), contour(true)]))  # (2, H, W) bool
    counts = contours.sum((1, 2))
    if not counts.all():  # two masks without contours agree; if only one has a contour, they do not
        return float(not counts.any())
    radius = math.ceil(share * math.hypot(*found.shape))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = torch.from_numpy(y**2 + x**2 <= radius**2)[None, None].float()
    near = F.conv2d(contours[:, None].float(), disc, padding=radius)[:, 0] > 0.5  # (2, H, W)
    precision, recall = ((contours & near.flip(0)).sum((1, 2)) / counts).tolist()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: Mask) -> Mask:
    """Return the pixels of an (H, W) bool mask that differ from their right, lower or lower right neighbour."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _same_size(found: Mask, true: Mask, void: Mask | None = None) -> tuple[Mask, Mask]:
    """Remove void pixels from both masks; raise a UserError if the sizes differ, where numpy might broadcast."""
    sizes = {mask.shape for mask in (found, true, void) if mask is not None}
    if len(sizes) > 1:
        raise UserError(
            f"masks of different sizes cannot be compared: {', '.join(map(str, sorted(sizes)))}; use one size"
        )
    return (found, true) if void is None else (found & ~void, true & ~void)
