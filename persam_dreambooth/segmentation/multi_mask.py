"""More than one mask in a photo: several subjects, or all instances of one, each pixel given to one of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.segmentation.frame import Frame, bounding_box
from persam_dreambooth.segmentation.persam import PerSAM
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, Segmentation

OVERLAP = 0.5
"""A mask of which so much lies in those before it is one of them, seen again."""


def share_out(logits: Iterable[Tensor | None], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Give each pixel to the mask with the highest logit above zero.

    Args:
        logits: (H, W) float32 each, original frame; None stands for a mask that is not there.
        size: (H, W).

    Returns:
        (H, W) uint8: 0 where no logit is above zero, n where the n-th is the highest.
    """
    best, labels = torch.zeros(size), torch.zeros(size, dtype=torch.uint8)
    for number, one in enumerate(logits, start=1):
        if one is not None:
            ahead = one.cpu() > best
            labels[ahead], best = number, torch.maximum(best, one.cpu())
    return labels.numpy()


def segment_together(persam: PerSAM, image: Picture | EncodedPhoto, subjects: Sequence[Subject]) -> list[Segmentation]:
    """Several subjects in one photo, which is encoded once; no pixel belongs to two of them.

    Returns:
        One `Segmentation` a subject, in their order.

    Raises:
        UserError: a subject is another backbone's or another method's.
    """
    (photo,) = persam.encode([image])
    return without_overlap([persam.segment(photo, subject) for subject in subjects], photo.frame)


def segment_instances(
    persam: PerSAM,
    image: Picture | EncodedPhoto,
    subject: Subject,
    is_subject: Callable[[EncodedPhoto, Segmentation], bool],
    at_most: int = 8,
) -> list[Segmentation]:
    """Every instance of a subject in one photo (three dogs of one litter), each with its own mask.

    Found one after another, by `looks`; a place that gives a mask of something else is passed over.

    Args:
        persam: what segments.
        image: the photo, or what `encode` made of it.
        subject: from `personalize`.
        is_subject: whether a mask is the subject's, for instance by a `PresenceCheck`.
        at_most: looks.

    Returns:
        The instances in the order in which they were found, without overlap; none where there is none.

    Raises:
        UserError: the subject is another backbone's or another method's.
    """
    persam.check(subject)
    (photo,) = persam.encode([image])
    seen = (found for found in looks(persam, photo, subject, at_most) if found.mask.any())
    return without_overlap([found for found in seen if is_subject(photo, found)], photo.frame)


def looks(persam: PerSAM, photo: EncodedPhoto, subject: Subject, at_most: int) -> Iterator[Segmentation]:
    """The likeliest mask, then the likeliest beside it, and so on: candidates for the subject, best place first.

    Where one was, the confidence map is at its lowest for the next. It ends after `at_most`, with an
    empty mask, or when a mask lies in those before it, which is not given again.
    """
    taken: NDArray[np.bool_] | None = None
    for _ in range(at_most):
        found = persam.segment_beside(photo, subject, taken)
        if taken is not None and (found.mask & taken).sum() >= OVERLAP * found.mask.sum():
            return
        yield found
        taken = found.mask if taken is None else taken | found.mask


def without_overlap(
    found: Sequence[Segmentation], frame: Frame, given: Sequence[NDArray[np.bool_]] = ()
) -> list[Segmentation]:
    """The same segmentations with masks that share no pixel, also not with those given, (H, W) bool, that stay."""
    if len(found) + len(given) < 2:
        return list(found)
    logits = (frame.to_original(torch.from_numpy(one.logits)[None])[0] for one in found)
    labels = share_out(logits, (frame.height, frame.width))
    for mask in given:
        labels[mask] = 0
    return [_cut(one, labels == number) for number, one in enumerate(found, start=1)]


def _cut(found: Segmentation, mask: NDArray[np.bool_]) -> Segmentation:
    box = bounding_box(torch.from_numpy(mask))
    return replace(found, mask=mask, box=None if box is None else box.numpy())
