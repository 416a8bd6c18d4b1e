"""Target features, location confidence map, location prior and attention bias (equations 3 to 8)."""

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


def target_feature(features: Tensor, fidelity: Fidelity, with_maximum: bool = False) -> Tensor:
    """Pool the n local features (n, C) under the mask into the (C,) feature of the confidence map.

    Official code: the mean, L2-normalized; for PerSAM-F (`with_maximum`) the midpoint of each channel's
    mean and maximum instead of the mean. Paper, equation 6: the mean of the normalized features, which
    makes S the mean of the n cosines.
    """
    if fidelity == "paper":
        return F.normalize(features, dim=-1).mean(0)
    middle = (features.mean(0) + features.amax(0)) / 2 if with_maximum else features.mean(0)
    return F.normalize(middle, dim=-1)


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


def attention_bias(similarity: Tensor, confidence: Tensor, frame: Frame, fidelity: Fidelity, alpha: float) -> Tensor:
    """Compute the bias that equation 8 adds to the attention maps, on the embedding's grid.

    Args:
        similarity: (h, w), the confidence map on the grid.
        confidence: (H, W), the same over the photo, original frame.
        frame: placement of the photo in the square.
        fidelity: "official" z-scores the photo's map, stretches it over the whole grid and takes
            the sigmoid; "corrected" maps it to the cells that hold the photo and fills the padding
            with the lowest value; "paper" is alpha * softmax(S) over those cells.
        alpha: the paper's factor; used by "paper" only.

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
    # A constant map (a photo of one colour, or of one pixel) has zero spread; the floor avoids NaN.
    spread = confidence.std(correction=min(1, confidence.numel() - 1)).clamp_min(1e-12)
    z = (confidence - confidence.mean()) / spread
    if fidelity == "corrected":
        return frame.to_grid(z, grid[0], z.min().item(), "bilinear").sigmoid()
    return F.interpolate(z[None, None], grid, mode="bilinear", align_corners=False)[0, 0].sigmoid()
