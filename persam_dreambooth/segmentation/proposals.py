"""Mask proposals: masks of everything in a photo, ranked by how much they resemble a subject.

The points and filters are those of SAM's automatic mask generator, on any backbone.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.utils.amg import batched_mask_to_box, build_point_grid, calculate_stability_score
from torch import Tensor
from torchvision.ops import nms

from persam_dreambooth.segmentation.backbones import Backbone, Prompts
from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.types import EncodedPhoto

SMALL: Final = 256
"""Pixels of the longer side at which masks are compared; SAM's own logits have as many."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """The mask of something in a photo.

    Attributes:
        logits: (h, w) float32 over the frame's square, above zero inside the mask.
        frame: placement of the photo in that square.
        score: predicted IoU, or the confidence of a detector.
        point: (x, y) int, a pixel of the mask that prompted it; None without one.
    """

    logits: Tensor
    frame: Frame
    score: float
    point: tuple[int, int] | None = None

    def mask(self) -> NDArray[np.bool_]:
        """Return the mask, (H, W) bool, original frame."""
        mask: NDArray[np.bool_] = (self.frame.to_original(self.logits[None])[0] > 0).cpu().numpy()
        return mask

    @cached_property
    def small(self) -> Tensor:
        """The mask, (h, w) bool, over the photo at no more than `SMALL` pixels."""
        return shrunk(self.frame).to_original(self.logits[None])[0] > 0


class ProposalSource(ABC):
    """Proposes masks of everything in a photo."""

    @abstractmethod
    def __call__(self, pixels: NDArray[np.uint8], photo: EncodedPhoto) -> list[Proposal]:
        """Propose masks, none of them twice, the best score first.

        Args:
            pixels: (H, W, 3) uint8 RGB, the upright photo.
            photo: the same photo, encoded by the SAM.
        """


class PointGrid(ProposalSource):
    """Prompts a SAM with each point of a grid and keeps the masks that cover the point, are good and stable.

    The thresholds are lower than SAM's own, since a person chooses among the masks that resemble the subject.

    Args:
        backbone: the SAM.
        points_per_side: of the grid; each point costs one pass of the decoder.
        pred_iou_thresh: lowest predicted IoU.
        stability_score_thresh: lowest IoU of the masks cut at one logit above and below zero.
        box_nms_thresh: IoU of the boxes above which the worse of two masks is dropped.
    """

    def __init__(
        self,
        backbone: Backbone,
        points_per_side: int = 16,
        pred_iou_thresh: float = 0.7,
        stability_score_thresh: float = 0.5,
        box_nms_thresh: float = 0.7,
    ) -> None:
        self._backbone, self._overlap = backbone, box_nms_thresh
        self._grid = torch.from_numpy(build_point_grid(points_per_side))
        self._least = pred_iou_thresh, stability_score_thresh

    @torch.no_grad()
    def __call__(self, pixels: NDArray[np.uint8], photo: EncodedPhoto) -> list[Proposal]:
        """Propose masks; arguments and result as in the base class."""
        frame, found = photo.frame, list[Proposal]()
        small, label = shrunk(frame), torch.ones(1, dtype=torch.int)
        for point in self._grid * torch.tensor([frame.width, frame.height]):
            prompts = Prompts(frame.to_model(point[None]), label)
            logits, scores = self._backbone.decode(photo.embedding, prompts, True, extra=photo.extra)
            over_photo, at = small.to_original(logits), (int(point[0]), int(point[1]))
            stable = calculate_stability_score(over_photo, 0.0, 1.0)
            covers = over_photo[:, at[1] * small.height // frame.height, at[0] * small.width // frame.width] > 0
            good = covers & (scores > self._least[0]) & (stable >= self._least[1])
            found += [Proposal(logits[index], frame, float(scores[index]), at) for index in good.nonzero()[:, 0]]
        return without_duplicates(found, self._overlap)


def without_duplicates(found: Sequence[Proposal], overlap: float) -> list[Proposal]:
    """Drop empty masks, and of those whose boxes overlap by more than an IoU all but the best; the best come first."""
    found = [proposal for proposal in found if proposal.small.any()]
    if not found:
        return []
    boxes = batched_mask_to_box(torch.stack([proposal.small for proposal in found])).float()
    scores = torch.tensor([proposal.score for proposal in found], device=boxes.device)
    return [found[index] for index in nms(boxes, scores, overlap).tolist()]


def prototype(photo: EncodedPhoto, mask: Tensor) -> Tensor:
    """Return the mean of a photo's normalized features under a mask, normalized, (C,) float32.

    Args:
        photo: encoded by a SAM or a DINO.
        mask: (h, w) bool over the photo, at any resolution. Each cell counts by the share of it that is covered.
    """
    height, width = mask.shape
    frame = replace(photo.frame, height=height, width=width)
    weights = frame.to_grid(mask.float().cpu(), photo.embedding.shape[-1], 0.0, "area").to(photo.embedding.device)
    mean = torch.einsum("chw,hw->c", F.normalize(photo.embedding, dim=0), weights)
    return F.normalize(mean, dim=0)


def similarities(proposals: Sequence[Proposal], photo: EncodedPhoto, target: Tensor) -> list[float]:
    """Return the cosine of each mask's prototype with the subject's, (C,), in the features of an encoded photo."""
    return [float(prototype(photo, proposal.small) @ target) for proposal in proposals]


def shrunk(frame: Frame) -> Frame:
    """Return the placement of the same photo at no more than `SMALL` pixels."""
    factor = min(1.0, SMALL / max(frame.height, frame.width))
    return replace(frame, height=max(1, round(frame.height * factor)), width=max(1, round(frame.width * factor)))
