"""The three fidelities: what the authors' code, the paper's equations and this package do differently."""

from typing import ClassVar, Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import location
from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.types import Reference

Fidelity = Literal["official", "corrected", "paper"]


class Corrected:
    """The authors' code, with its errors fixed on photos that are not square and on masks unlike PerSeg's.

    Attributes:
        repeat_embedding: add T_R of equation 9 before every block, as the code does, or once, as the paper prints it.
    """

    repeat_embedding: ClassVar[bool] = True

    def mask_levels(self, reference: Reference) -> NDArray[np.uint8]:
        """Return the reference mask as (H, W) uint8 levels, original frame, for `location.foreground_cells`."""
        return reference.perseg_levels()

    def cells_without_foreground(self, reference: Reference, frame: Frame, grid: int) -> Tensor:
        """Return the foreground cells, (grid, grid) bool, of a mask too thin for `location.foreground_cells`."""
        return location.best_covered_cells(reference.foreground, frame, grid)

    def target_feature(self, features: Tensor, with_maximum: bool) -> Tensor:
        """Pool the n local features (n, C) under the mask into the (C,) feature of the confidence map.

        The mean, L2-normalized; for PerSAM-F (`with_maximum`) the midpoint of each channel's mean and maximum instead
        of the mean.
        """
        middle = (features.mean(0) + features.amax(0)) / 2 if with_maximum else features.mean(0)
        return F.normalize(middle, dim=-1)

    def attention_bias(self, similarity: Tensor, confidence: Tensor, frame: Frame, alpha: float) -> Tensor:
        """Compute the bias that equation 8 adds to the attention maps: the sigmoid of the z-scored confidence map.

        Args:
            similarity: (h, w), the confidence map on the embedding's grid.
            confidence: (H, W), the same over the photo, original frame.
            frame: placement of the photo in the square.
            alpha: the paper's factor; used by "paper" only.

        Returns:
            (h, w) float32; cells in the padding have the lowest value.
        """
        z = _z_scores(confidence)
        return frame.to_grid(z, similarity.shape[0], z.min().item(), "bilinear").sigmoid()


class Official(Corrected):
    """The authors' code, number for number."""

    def mask_levels(self, reference: Reference) -> NDArray[np.uint8]:
        """Return the mask's red channel as it is."""
        return reference.raw_levels()

    def cells_without_foreground(self, reference: Reference, frame: Frame, grid: int) -> Tensor:
        """Raise a UserError: the official code fails here."""
        raise UserError(
            "no cell of the embedding lies inside the reference mask by the official rule; "
            "use fidelity 'corrected', or a mask with a red channel above 123"
        )

    def attention_bias(self, similarity: Tensor, confidence: Tensor, frame: Frame, alpha: float) -> Tensor:
        """Compute the bias of equation 8, stretched over the whole grid, padding included."""
        z = _z_scores(confidence)
        return F.interpolate(z[None, None], similarity.shape, mode="bilinear", align_corners=False)[0, 0].sigmoid()


class Paper(Corrected):
    """The equations as printed."""

    repeat_embedding = False

    def target_feature(self, features: Tensor, with_maximum: bool) -> Tensor:
        """Return the mean of the normalized features, which makes S of equation 6 the mean of the n cosines."""
        return F.normalize(features, dim=-1).mean(0)

    def attention_bias(self, similarity: Tensor, confidence: Tensor, frame: Frame, alpha: float) -> Tensor:
        """Compute alpha * softmax(S) over the cells that hold the photo; 0 in the padding."""
        height, width = frame.resized
        cell = frame.side / similarity.shape[0]
        outside = torch.ones_like(similarity, dtype=torch.bool)
        outside[: round(-(-height // cell)), : round(-(-width // cell))] = False
        weights = torch.softmax(similarity.masked_fill(outside, -torch.inf).flatten(), dim=0)
        return alpha * weights.view(similarity.shape)


FIDELITIES: Final[dict[str, Corrected]] = {"official": Official(), "corrected": Corrected(), "paper": Paper()}


def _z_scores(confidence: Tensor) -> Tensor:
    # A constant map (a photo of one colour, or of one pixel) has zero spread; the floor avoids NaN.
    spread = confidence.std(correction=min(1, confidence.numel() - 1)).clamp_min(1e-12)
    return (confidence - confidence.mean()) / spread
