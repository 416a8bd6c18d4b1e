"""Foreground cells, location confidence map and location prior (equations 4 to 7)."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.segmentation.frame import PIXEL_MEAN, PIXEL_STD, Frame
from persam_dreambooth.segmentation.types import EncodedPhoto


def foreground_cells(levels: NDArray[np.uint8], frame: Frame, grid: int) -> Tensor:
    """Resample the reference mask to the embedding's grid: M_R of equation 4.

    Args:
        levels: (H, W) uint8, the reference mask's red channel, original frame.
        frame: placement of the photo in the model's square.
        grid: number of cells along one side of the embedding.

    Returns:
        (grid, grid) float32; cells above zero are foreground. The mask is preprocessed like an image:
        resized, normalized, padded, then bilinear (no antialias) to the grid. SAM's normalization is used
        for every backbone, because its zero, 123.675, is the threshold of the official rule.
    """
    frame = replace(frame, mean=PIXEL_MEAN, std=PIXEL_STD)
    square = frame.pixels(np.repeat(levels[..., None], 3, axis=2))
    return F.interpolate(square[None], (grid, grid), mode="bilinear", align_corners=False)[0, 0]


def best_covered_cells(foreground: NDArray[np.bool_], frame: Frame, grid: int) -> Tensor:
    """Return the cells that the mask covers most, (grid, grid) bool, for masks too thin for `foreground_cells`.

    Coverage is averaged over the photo's own pixels, because resizing can erase a thin subject altogether.
    """
    covered = frame.to_grid(torch.from_numpy(foreground).float(), grid, 0.0, "area")
    return covered == covered.max()


def confidence_map(feature: Tensor, embedding: Tensor) -> Tensor:
    """Compute equations 5 and 6 on the embedding's grid: S = F_I T_R with F_I normalized per cell.

    Args:
        feature: (C,), the target feature.
        embedding: (C, h, w), the test image's features.

    Returns:
        (h, w) float32 in [-1, 1].
    """
    return torch.einsum("c,chw->hw", feature, F.normalize(embedding, dim=0))


def to_photo(similarity: Tensor, frame: Frame) -> Tensor:
    """Upsample a confidence map (h, w) over the square by 4, then resize to the photo's (H, W) without padding."""
    enlarged = F.interpolate(similarity[None, None], scale_factor=4, mode="bilinear", align_corners=False)
    return frame.to_original(enlarged[0])[0]


def to_grid(confidence: Tensor, frame: Frame, grid: int) -> Tensor:
    """Resize a confidence map (H, W) over the photo to (grid, grid) over the square; its minimum fills the padding."""
    return frame.to_grid(confidence, grid, confidence.min().item(), "bilinear")


def on_photo(feature: Tensor, photo: EncodedPhoto) -> Tensor:
    """Compute the confidence map (H, W), original frame, of a (C,) target feature and an encoded photo."""
    compared = photo.compared
    return to_photo(confidence_map(feature, compared.embedding), compared.frame)


def location_prior(confidence: Tensor, negative: bool) -> tuple[Tensor, Tensor]:
    """Equation 7: the most confident pixel and, optionally, the least confident one.

    Args:
        confidence: (H, W), original frame.
        negative: add the negative point P_l.

    Returns:
        (N, 2) int64 points (x, y) in the original frame, and (N,) int64 labels, 1 positive and 0 negative.
    """
    flat = confidence.flatten()
    # topk, not argmax: among ties (a plateau in a corner) it picks the same pixel as the official code.
    chosen = [flat.topk(1).indices] + ([flat.topk(1, largest=False).indices] if negative else [])
    index = torch.cat(chosen)
    width = confidence.shape[1]
    labels = torch.tensor([1, 0][: len(index)], device=index.device)
    return torch.stack([index % width, index // width], dim=-1), labels
