"""Track subjects through a video frame by frame, with the confidence map and each subject's box in the last frame.

This follows the authors' video code, with one addition: a subject that leaves counts as lost, its last box is
dropped, and tracking resumes where the confidence map finds it again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import location
from persam_dreambooth.segmentation.backbones import Prompts
from persam_dreambooth.segmentation.crops import CropSearch
from persam_dreambooth.segmentation.encoding import check_finite
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.mask_weights import fit_mask_weights
from persam_dreambooth.segmentation.multi_mask import share_out
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.persam import PerSAM
from persam_dreambooth.segmentation.refinement import refine
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, Reference

POINTS, POINTS_F = 2, 1
"""Number of most confident pixels that prompt the decoder, for PerSAM and for PerSAM-F, as in the authors' code."""
LEVEL = np.uint8(215)
"""Foreground value of the first frame's mask in the authors' video code; a cell needs 57.5 % coverage to count."""
STEPS_F, LEARNING_RATE_F = 800, 4e-4
"""Steps and learning rate of the fit of PerSAM-F's mask weights on the first frame, as in the authors' code."""
WIDENED = 10
"""Pixels by which the previous frame's box is enlarged on each side, as in the authors' code."""


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """The subjects in one frame.

    Attributes:
        labels: (H, W) uint8, 0 for the background and n for the n-th subject.
        scores: predicted IoU of each subject's mask; None if the subject is absent.
    """

    labels: NDArray[np.uint8]
    scores: tuple[float | None, ...]

    def __repr__(self) -> str:
        height, width = self.labels.shape
        scores = ", ".join("gone" if score is None else f"{score:.3f}" for score in self.scores)
        return f"VideoFrame({width} x {height} pixels, scores {scores})"


class VideoSegmenter:
    """Track subjects from frame to frame; memory use does not grow with the number of frames.

    Args:
        segmenter: the method that made the subjects (see `first_frame_subject`). PerSAM uses the previous frame's
            box; INSID3 segments every frame independently. For SegGPT take `SegGptVideoSegmenter`.
        subjects: the subjects to track, in the order of their labels.
        lost_below: predicted IoU below which a subject counts as lost; None never drops one, as in the authors' code.
            INSID3 without a SAM does not use it.

    Raises:
        UserError: no subject, more than 255, or one of another backbone or method.
    """

    def __init__(
        self, segmenter: OneShotSegmenter, subjects: Sequence[Subject], lost_below: float | None = 0.7
    ) -> None:
        if not 1 <= len(subjects) <= 255:
            raise UserError(f"a video is segmented for 1 to 255 subjects, not {len(subjects)}")
        if isinstance(segmenter, CropSearch):
            raise UserError("a video is not searched in crops; give the method without them")
        for subject in subjects:
            segmenter.check(subject)
        self._segmenter, self._subjects = segmenter, list(subjects)
        # INSID3 alone predicts no IoU: it loses a subject where its mask is empty.
        self._lost_below = None if segmenter.backbone is None else lost_below
        self._boxes: list[Tensor | None] = [None] * len(subjects)

    def follow(self, frames: Iterable[Picture], first_labels: NDArray[np.uint8] | None = None) -> Iterator[VideoFrame]:
        """Segment a stream of frames, yielding one `VideoFrame` each.

        Args:
            frames: any number of frames, all of the same size.
            first_labels: (H, W) uint8, the known labels of the first frame; returned as the first result, with a
                score of 1 for each subject in it.
        """
        for frame in frames:
            if first_labels is not None:
                numbers = range(1, len(self._subjects) + 1)
                scores = tuple(1.0 if (first_labels == number).any() else None for number in numbers)
                result = VideoFrame(first_labels, scores)
                first_labels = None
            else:
                result = self._look(self._segmenter.encode([frame])[0])
            self._remember(result)
            yield result

    def _remember(self, result: VideoFrame) -> None:
        """Store each subject's box, None for an absent subject."""
        masks = [torch.from_numpy(result.labels == number) for number in range(1, len(self._subjects) + 1)]
        self._boxes = [bounding_box(mask) for mask in masks]

    @torch.no_grad()
    def _look(self, photo: EncodedPhoto) -> VideoFrame:
        """Segment all subjects in one frame; each pixel goes to the subject with the highest logit above zero."""
        scores: list[float | None] = []

        def logits_by_subject() -> Iterator[Tensor | None]:
            for subject, box in zip(self._subjects, self._boxes, strict=True):
                logits, score = self._find(photo, subject.to(photo.embedding.device), box)
                lost = self._lost_below is not None and score < self._lost_below
                scores.append(None if lost or not (logits > 0).any() else score)
                yield None if lost else logits

        labels = share_out(logits_by_subject(), (photo.frame.height, photo.frame.width))
        return VideoFrame(labels, tuple(scores))

    def _find(self, photo: EncodedPhoto, subject: Subject, previous_box: Tensor | None) -> tuple[Tensor, float]:
        """Return one subject's (H, W) logits and predicted IoU.

        INSID3 segments the frame like a photo. PerSAM runs three decoder passes: the first is prompted with the most
        confident pixels and, if the subject was visible in the previous frame, with its enlarged box and that box's
        center. Of the three masks the largest is kept; PerSAM-F keeps their weighted sum. The other two passes are
        cascaded post-refinement, in PerSAM-F both with a box.
        """
        frame = photo.frame
        if not isinstance(self._segmenter, PerSAM):
            found = self._segmenter.segment_encoded(photo, subject)
            return frame.to_original(torch.from_numpy(found.logits)[None])[0], found.score
        backbone, weights = self._segmenter.backbone, subject.mask_weights
        prompts = _prompts(photo, subject, previous_box)
        logits, scores = backbone.decode(photo.embedding, prompts, multimask=True, extra=photo.extra)
        if weights is None:
            kept = logits[_areas(frame.to_original(logits), self._segmenter.method.fidelity).argmax()]
        else:
            kept = torch.einsum("k,khw->hw", weights, logits)
            if not (frame.to_original(kept[None]) > 0).any():
                kept = logits[scores.argmax()]
        for with_box in (weights is not None, True):
            refined = refine(backbone, photo, prompts, kept, with_box)
            if refined is None:
                return torch.full((frame.height, frame.width), -1.0, device=kept.device), 0.0
            logits, scores, _ = refined
            kept = logits[scores.argmax()]
        check_finite(kept, backbone.name)
        return frame.to_original(kept[None])[0], float(scores.max())


@torch.no_grad()
def first_frame_subject(segmenter: OneShotSegmenter, frame: Picture, mask: NDArray[np.bool_]) -> Subject:
    """Learn a subject from the first frame of a video.

    As in the authors' video scripts, the target feature of PerSAM too is the midpoint of mean and maximum, and
    PerSAM-F's weights are fitted on a decoder pass that is prompted with the subject's box. INSID3 and SegGPT learn it
    as from a photo.

    Args:
        segmenter: the method that will follow the subject.
        frame: the first frame.
        mask: (H, W) bool, the subject in it.

    Raises:
        UserError: the mask is empty or full.
    """
    reference = Reference(frame, mask.astype(np.uint8) * LEVEL)
    if not isinstance(segmenter, PerSAM):
        return segmenter.personalize(reference)
    method, encoded = segmenter.method, segmenter.encode_references([reference])
    unfitted = torch.zeros(3) if method.mask_weights else None
    subject = segmenter.personalize(reference, unfitted, encoded)
    (photo,) = encoded
    features = segmenter.local_features(reference, photo.compared)
    subject = replace(subject, target_feature=method.rules.target_feature(features, with_maximum=True))
    if not method.mask_weights:
        return subject
    foreground = torch.from_numpy(reference.foreground)
    prompts = _prompts(photo, subject, bounding_box(foreground))
    logits, _ = segmenter.backbone.decode(photo.embedding, prompts, multimask=True, extra=photo.extra)
    pixels = photo.frame.to_original(logits).flatten(1)
    weights = fit_mask_weights(pixels, foreground.flatten().to(pixels.device), STEPS_F, LEARNING_RATE_F)
    return replace(subject, mask_weights=weights)


def _prompts(photo: EncodedPhoto, subject: Subject, previous_box: Tensor | None) -> Prompts:
    """Return the most confident pixels and, with a previous box, that box enlarged and its center, as prompts."""
    frame, count = photo.frame, POINTS if subject.mask_weights is None else POINTS_F
    flat = location.on_photo(subject.target_feature, photo).flatten()
    index = flat.topk(min(count, len(flat))).indices
    points = torch.stack([index % frame.width, index // frame.width], dim=-1)
    box = None
    if previous_box is not None:
        edges = _widened(previous_box, frame.width, frame.height)
        points = torch.cat([points, edges.view(2, 2).sum(0, keepdim=True).to(points.device) // 2])
        box = frame.box_to_model(edges)
    labels = torch.ones(len(points), dtype=torch.int64, device=points.device)
    return Prompts(frame.to_model(points), labels, box)


def _areas(logits: Tensor, fidelity: str) -> Tensor:
    """Return the pixels above zero of (K, H, W) logits, (K,) int64; the official code counts them in 8 bits."""
    areas = (logits > 0).sum((1, 2))
    return areas % 256 if fidelity == "official" else areas


def _widened(box: Tensor, width: int, height: int) -> Tensor:
    """Enlarge a (4,) XYXY box by `WIDENED` pixels on each side, clamped to the photo."""
    edges = box + torch.tensor([-WIDENED, -WIDENED, WIDENED, WIDENED], device=box.device)
    return edges.clamp(min=torch.zeros(4, device=box.device).long()).minimum(
        torch.tensor([width, height, width, height], device=box.device)
    )
