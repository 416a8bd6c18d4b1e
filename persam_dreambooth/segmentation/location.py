"""Target features, location confidence map, location prior and attention bias: equations 3 to 7."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.segmentation.frame import PIXEL_MEAN, PIXEL_STD, Frame
from persam_dreambooth.segmentation.types import EncodedPhoto

Fidelity = Literal["official", "corrected", "paper"]


def foreground_cells(levels: NDArray[np.uint8], frame: Frame, grid: int) -> Tensor:
    """How far each cell of the embedding's grid lies inside the reference mask, M_R of equation 4.

    Args:
        levels: (H, W) uint8, the reference mask's red channel, original frame.
        frame: where that photo lies in the model's square.
        grid: cells along one side of the embedding.

    Returns:
        (grid, grid) float32; a cell is foreground where this is above zero. The mask travels the
        image's own path: resized, normalized, padded, then bilinear (no antialias) to the grid.
        Normalized as SAM does, whatever the backbone: the zero, 123.675, is the rule's threshold.
    """
    frame = replace(frame, mean=PIXEL_MEAN, std=PIXEL_STD)
    square = frame.pixels(np.repeat(levels[..., None], 3, axis=2))
    return F.interpolate(square[None], (grid, grid), mode="bilinear", align_corners=False)[0, 0]


def best_covered_cells(foreground: NDArray[np.bool_], frame: Frame, grid: int) -> Tensor:
    """(grid, grid) bool: where the mask covers most of a cell, for masks too thin for `foreground_cells`.

    Averaged over the photo's own pixels: the resized mask may have lost a thin subject altogether.
    """
    covered = frame.to_grid(torch.from_numpy(foreground).float(), grid, 0.0, "area")
    return covered == covered.max()


def target_feature(features: Tensor, fidelity: Fidelity, with_maximum: bool = False) -> Tensor:
    """What the confidence map compares with, from the n local features (n, C) under the mask; (C,).

    Official code: the mean, L2-normalized; for PerSAM-F, `with_maximum`, the middle of the mean and
    the maximum of each channel. Paper, equation 6: the mean of the normalized ones, which makes S
    the mean of the n cosines.
    """
    if fidelity == "paper":
        return F.normalize(features, dim=-1).mean(0)
    middle = (features.mean(0) + features.amax(0)) / 2 if with_maximum else features.mean(0)
    return F.normalize(middle, dim=-1)


def confidence_map(feature: Tensor, embedding: Tensor) -> Tensor:
    """Equations 5 and 6 on the embedding's grid: S = F_I T_R with F_I normalized per cell.

    Args:
        feature: (C,), the target feature.
        embedding: (C, h, w), the test image's features.

    Returns:
        (h, w) float32 in [-1, 1].
    """
    return torch.einsum("c,chw->hw", feature, F.normalize(embedding, dim=0))


def to_photo(similarity: Tensor, frame: Frame) -> Tensor:
    """The confidence map (h, w) over the square, x4 and then to the photo's (H, W), padding cut off."""
    enlarged = F.interpolate(similarity[None, None], scale_factor=4, mode="bilinear", align_corners=False)
    return frame.to_original(enlarged[0])[0]


def to_grid(confidence: Tensor, frame: Frame, grid: int) -> Tensor:
    """The confidence map (H, W) over the photo to (grid, grid) over the square, the lowest value in the padding."""
    return frame.to_grid(confidence, grid, confidence.min().item(), "bilinear")


def on_photo(feature: Tensor, photo: EncodedPhoto) -> Tensor:
    """The confidence map (H, W) over a photo, original frame: (C,) compared with what the photo is compared by."""
    compared = photo.compared
    return to_photo(confidence_map(feature, compared.embedding), compared.frame)


def location_prior(confidence: Tensor, negative: bool) -> tuple[Tensor, Tensor]:
    """Equation 7: the most and, if asked for, the least confident pixel.

    Args:
        confidence: (H, W), original frame.
        negative: add the negative point P_l.

    Returns:
        (N, 2) int64 points (x, y) in the original frame, and (N,) int64 labels, 1 positive and 0 negative.
    """
    flat = confidence.flatten()
    # topk, not argmax: of equal extremes (a corner's plateau) it picks the one the official code picks.
    chosen = [flat.topk(1).indices] + ([flat.topk(1, largest=False).indices] if negative else [])
    index = torch.cat(chosen)
    width = confidence.shape[1]
    labels = torch.tensor([1, 0][: len(index)], device=index.device)
    return torch.stack([index % width, index // width], dim=-1), labels


def attention_bias(similarity: Tensor, confidence: Tensor, frame: Frame, fidelity: Fidelity, alpha: float) -> Tensor:
    """What equation 8 adds to the attention maps, on the embedding's grid.

    Args:
        similarity: (h, w), the confidence map on the grid.
        confidence: (H, W), the same over the photo, original frame.
        frame: where the photo lies in the square.
        fidelity: "official" z-scores the photo's map, stretches it over the whole grid and takes
            the sigmoid; "corrected" lays it on the cells that hold the photo and gives the padding
            the lowest value; "paper" is alpha * softmax(S) over those cells.
        alpha: the paper's factor; read by "paper" only.

    Returns:
        (h, w) float32.
    """
    grid = similarity.shape
    if fidelity == "paper":
        height, width = frame.resized
        cell = frame.side / grid[0]
        outside = torch.ones_like(similarity, dtype=torch.bool)
        outside[: round(-(-height // cell)), : round(-(-width // cell))] = False
        weights = torch.softmax(similarity.masked_fill(outside, -torch.inf).flatten(), dim=0)
        return alpha * weights.view(grid)
    # A flat map (a photo of one colour, or of one pixel) has no spread; without the floor it would become NaN.
    spread = confidence.std(correction=min(1, confidence.numel() - 1)).clamp_min(1e-12)
    z = (confidence - confidence.mean()) / spread
    if fidelity == "corrected":
        return frame.to_grid(z, grid[0], z.min().item(), "bilinear").sigmoid()
    return F.interpolate(z[None, None], grid, mode="bilinear", align_corners=False)[0, 0].sigmoid()
