"""Several masks in one photo: several subjects, or all instances of one; each pixel belongs to at most one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.segmentation.frame import Frame, bounding_box
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, Segmentation

OVERLAP = 0.5
"""A mask with at least this share of its pixels in previous masks is a duplicate of one of them."""


def share_out(logits: Iterable[Tensor | None], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Assign each pixel to the mask with the highest logit above zero.

    Args:
        logits: (H, W) float32 each, original frame; None for an absent mask, which keeps its number.
        size: (H, W).

    Returns:
        (H, W) uint8: 0 where no logit is above zero, n where the n-th is the highest.
    """
    best, labels = torch.zeros(size), torch.zeros(size, dtype=torch.uint8)
    for number, mask_logits in enumerate(logits, start=1):
        if mask_logits is not None:
            higher = mask_logits.cpu() > best
            labels[higher], best = number, torch.maximum(best, mask_logits.cpu())
    return labels.numpy()


def segment_together(
    segmenter: OneShotSegmenter, image: Picture | EncodedPhoto, subjects: Sequence[Subject]
) -> list[Segmentation]:
    """Segment several subjects in one photo, encoded once, without overlap.

    Returns:
        One `Segmentation` per subject, in the order of the subjects.

    Raises:
        UserError: a subject was made by another backbone or method.
    """
    (photo,) = segmenter.encode([image])
    return without_overlap([segmenter.segment(photo, subject) for subject in subjects], photo.frame)


def segment_instances(
    segmenter: OneShotSegmenter,
    image: Picture | EncodedPhoto,
    subject: Subject,
    is_subject: Callable[[EncodedPhoto, Segmentation], bool],
    at_most: int = 8,
) -> list[Segmentation]:
    """Segment every instance of a subject in one photo (three dogs of one litter), each with its own mask.

    Candidates come one by one from `candidates`; those that are not the subject are dropped.

    Args:
        segmenter: segments the photo.
        image: the photo, encoded or not.
        subject: from `personalize`.
        is_subject: decides whether a mask is the subject's, for instance with a `PresenceCheck`.
        at_most: maximum number of candidates.

    Returns:
        The instances in the order in which they were found, without overlap; an empty list if there are none.

    Raises:
        UserError: the subject was made by another backbone or method.
    """
    segmenter.check(subject)
    (photo,) = segmenter.encode([image])
    not_empty = (found for found in candidates(segmenter, photo, subject, at_most) if found.mask.any())
    return without_overlap([found for found in not_empty if is_subject(photo, found)], photo.frame)


def candidates(
    segmenter: OneShotSegmenter, photo: EncodedPhoto, subject: Subject, at_most: int
) -> Iterator[Segmentation]:
    """Yield candidate masks for the subject, best first, each outside the previous ones.

    For each next candidate the confidence map is set to its minimum inside all previous masks. Stops after
    `at_most` candidates, or when a mask is empty or mostly inside the previous ones; that one is not yielded
    unless it is the first.
    """
    subject = subject.to(photo.embedding.device)
    found_before: NDArray[np.bool_] | None = None
    for _ in range(at_most):
        found = segmenter.segment_encoded(photo, subject, exclude=found_before)
        if found_before is not None and mostly_inside(found.mask, found_before):
            return
        yield found
        found_before = found.mask if found_before is None else found_before | found.mask


def mostly_inside(mask: NDArray[np.bool_], others: NDArray[np.bool_]) -> bool:
    """Return whether an (H, W) bool mask is empty or has at least `OVERLAP` of its pixels in others."""
    return bool((mask & others).sum() >= OVERLAP * mask.sum())


def without_overlap(
    found: Sequence[Segmentation], frame: Frame, given: Sequence[NDArray[np.bool_]] = ()
) -> list[Segmentation]:
    """Remove overlap between segmentations, and with the `given` (H, W) bool masks, which keep their pixels.

    A pixel of several segmentations goes to the one with the highest logit; all others stay as they are.
    """
    if len(found) + len(given) < 2:
        return list(found)
    logits = (frame.to_original(torch.from_numpy(segmentation.logits)[None])[0] for segmentation in found)
    labels = share_out(logits, (frame.height, frame.width))
    for mask in given:
        labels[mask] = 0
    # Logits are coarser than the mask of a crop, so they decide only where masks meet.
    contested = np.sum([*given, *(segmentation.mask for segmentation in found)], axis=0, dtype=np.uint8) > 1
    return [
        with_mask(segmentation, segmentation.mask & (~contested | (labels == number)))
        for number, segmentation in enumerate(found, start=1)
    ]


def with_mask(found: Segmentation, mask: NDArray[np.bool_]) -> Segmentation:
    """Return a segmentation with another (H, W) bool mask, and the box around that."""
    box = bounding_box(torch.from_numpy(mask))
    return replace(found, mask=mask, box=None if box is None else box.numpy())
