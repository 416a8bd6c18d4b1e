"""The subjects found in a photo: make their masks disjoint, fill small holes and remove specks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from persam_dreambooth.segmentation import EncodedPhoto, Presence, Segmentation
from persam_dreambooth.segmentation.multi_mask import with_mask, without_overlap

TOUCHING = np.ones((3, 3), bool)
"""Pixels belong to one region if they share an edge or a corner."""


@dataclass(frozen=True, eq=False)
class Found:
    """One subject in one photo.

    Attributes:
        mask: (H, W) bool, original-image frame; the union of the instances.
        source: "reference" if the user gave the photo's mask, else the name of the method.
        instances: the best mask, or with `all_instances` each instance; empty if the user gave the photo's mask.
        presence: decision of the presence rule; None if the user gave the mask, or without a rule.
    """

    mask: NDArray[np.bool_]
    source: str = "reference"
    instances: tuple[Segmentation, ...] = ()
    presence: Presence | None = None


def assign_pixels(found: list[Found], photo: EncodedPhoto) -> list[Found]:
    """Assign each pixel of a photo to at most one subject.

    The user's own masks keep their pixels. Then come masks whose verdict is "found", then uncertain ones, so that a
    subject that may be absent takes no pixel from one that is there; within each group the highest logit decides.
    """
    result = list(found)
    taken = [subject.mask for subject in found if not subject.instances]
    for uncertain in (False, True):
        places = [n for n, subject in enumerate(found) if subject.instances and _is_uncertain(subject) == uncertain]
        instances = [instance for place in places for instance in found[place].instances]
        separate = iter(without_overlap(instances, photo.frame, taken))
        for place in places:
            own = tuple(next(separate) for _ in found[place].instances)
            result[place] = replace(found[place], mask=union(own), instances=own)
            taken.append(result[place].mask)
    return result


def clean_up(found: list[Found], min_region: int) -> list[Found]:
    """Clean up the masks that were found in a photo; no hole is filled with the pixels of another mask."""
    given = [subject.mask for subject in found if not subject.instances]
    masks = given + [instance.mask for subject in found for instance in subject.instances]
    covered = np.any(masks, axis=0)

    def clean(instance: Segmentation) -> Segmentation:
        mask = without_small_regions(instance.mask, min_region, covered & ~instance.mask)
        np.logical_or(covered, mask, out=covered)  # a pixel that is filled belongs to one mask only
        return with_mask(instance, mask)

    cleaned = [replace(subject, instances=tuple(map(clean, subject.instances))) for subject in found]
    return [replace(subject, mask=union(subject.instances)) if subject.instances else subject for subject in cleaned]


def without_small_regions(
    mask: NDArray[np.bool_], min_region: int, taken: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Fill holes and remove specks of fewer than `min_region` pixels, as SAM's mask generator does.

    The largest region stays whatever its size, so that a mask never becomes empty, and an empty one stays empty.

    Args:
        mask: (H, W) bool.
        min_region: minimum number of pixels of a region, of the mask or of its background, that stays.
        taken: (H, W) bool, background that belongs to another mask, so that it is not filled; None for none.

    Returns:
        (H, W) bool, a new array.
    """
    if not mask.any():  # a small photo is not one large hole
        return mask.copy()
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
    small[0] = False  # the label of the background
    found: NDArray[np.bool_] = small[regions]
    return found


def union(instances: Sequence[Segmentation]) -> NDArray[np.bool_]:
    """Return the union of the instances' masks, (H, W) bool."""
    return np.any([instance.mask for instance in instances], axis=0)


def _is_uncertain(found: Found) -> bool:
    return found.presence is not None and found.presence.verdict != "found"
