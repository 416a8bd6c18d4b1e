"""Search a photo in crops too: a subject that is small, or one of many, is larger there than in the whole photo.

The crops are those of SAM's automatic mask generator (`crop_n_layers`): in layer n, 2^n x 2^n overlapping ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.utils.amg import generate_crop_boxes
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.method_names import MOST_CROP_LAYERS
from persam_dreambooth.segmentation.method import AnyMethod, SegGptMethod
from persam_dreambooth.segmentation.multi_mask import mostly_inside
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.proposals import prototype
from persam_dreambooth.segmentation.refinement import FINER
from persam_dreambooth.segmentation.seggpt import SegGPT
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import (
    Box,
    Crop,
    DecoderPass,
    EncodedPhoto,
    Picture,
    Reference,
    Segmentation,
    rgb_array,
)

OVERLAP: Final = 512 / 1500
"""Overlap of neighbouring crops as a share of the photo's shorter side, SAM's own."""


def crop_boxes(height: int, width: int, layers: int) -> list[Box]:
    """Return the boxes of all crops of a photo, the largest first; those without a pixel are left out."""
    _, *boxes = generate_crop_boxes((height, width), layers, OVERLAP)[0]  # the first one is the whole photo
    return [(left, top, right, bottom) for left, top, right, bottom in boxes if right > left and bottom > top]


def is_cut(mask: NDArray[np.bool_], box: Box, size: tuple[int, int]) -> bool:
    """Return whether a crop's edge cuts off the mask in it; the photo's own edge does not.

    Args:
        mask: (h, w) bool over the crop.
        box: where the crop lies.
        size: (H, W) of the photo.
    """
    left, top, right, bottom = box
    inner = left > 0, top > 0, right < size[1], bottom < size[0]
    edges = mask[:, 0], mask[0], mask[:, -1], mask[-1]
    return any(cuts and bool(edge.any()) for cuts, edge in zip(inner, edges, strict=True))


def check_crops(method: OneShotSegmenter | AnyMethod, layers: int) -> None:
    """Check that a method, or one with these settings, can search this number of layers of crops.

    Raises:
        UserError: it cannot.
    """
    if isinstance(method, SegGPT | SegGptMethod):
        raise UserError("SegGPT has no features by which masks of crops can be compared; leave out the crops")
    if not 1 <= layers <= MOST_CROP_LAYERS:
        raise UserError(f"{layers} layers of crops; choose 1 to {MOST_CROP_LAYERS}, or search without crops")


class CropSearch(OneShotSegmenter):
    """A one-shot method that searches each photo whole and in crops; the mask most similar to the subject is kept.

    Masks that an inner edge of their crop cuts off are dropped. The similarity is the cosine of the mean feature under
    the mask with the subject's target feature. References are not cropped. INSID3 alone marks all instances of the
    subject in a photo; here it marks those of the best crop.

    Args:
        method: PerSAM or INSID3, with or without SAM.
        layers: number of layers of crops, 1 to `MOST_CROP_LAYERS`; one layer takes five times as long as none.

    Raises:
        UserError: another number of layers, or SegGPT, which has no features.
    """

    def __init__(self, method: OneShotSegmenter, layers: int = 1) -> None:
        check_crops(method, layers)
        self._method, self._layers = method, layers
        self.name, self.checksum, self.backbone = method.name, method.checksum, method.backbone

    @property
    def label(self) -> str:
        """The method's own: a subject is the same with and without crops."""
        return self._method.label

    @property
    def calibration(self) -> str:
        """The method's, and the number of layers: other masks are found with crops."""
        return f"{self._method.calibration}-crops{self._layers}"

    def confidence(self, photo: EncodedPhoto, subject: Subject) -> Tensor:
        """Return the confidence map of the whole photo."""
        return self._method.confidence(photo, subject)

    def encode(self, images: Sequence[Picture | EncodedPhoto]) -> list[EncodedPhoto]:
        """Encode photos in one forward pass; each of their crops is encoded when it is first searched, and kept."""
        return [
            replace(photo, crops=self._crops(image)) if not isinstance(image, EncodedPhoto) else photo
            for image, photo in zip(images, self._method.encode(images), strict=True)
        ]

    def _crops(self, image: Picture) -> tuple[Crop, ...]:
        pixels = rgb_array(image)
        height, width, _ = pixels.shape
        boxes = crop_boxes(height, width, self._layers)
        return tuple(Crop(box, partial(self._encode_part, pixels, box)) for box in boxes)

    def _encode_part(self, pixels: NDArray[np.uint8], box: Box) -> EncodedPhoto:
        left, top, right, bottom = box
        return self._method.encode([np.ascontiguousarray(pixels[top:bottom, left:right])])[0]

    def encode_references(self, references: Sequence[Reference]) -> list[EncodedPhoto]:
        """Encode the references' photos, without crops."""
        return self._method.encode_references(references)

    def encode_to_learn(self, references: Sequence[Reference]) -> list[EncodedPhoto]:
        """Encode the references' photos as far as the method needs it."""
        return self._method.encode_to_learn(references)

    def learn(self, references: Sequence[tuple[Reference, EncodedPhoto]], mask_weights: Tensor | None) -> Subject:
        """Learn a subject, as the method does."""
        return self._method.learn(references, mask_weights)

    @torch.no_grad()
    def segment_encoded(
        self, photo: EncodedPhoto, subject: Subject, exclude: NDArray[np.bool_] | None = None
    ) -> Segmentation:
        """Segment one encoded photo and its crops; arguments as in the base class.

        A mask that was found in a crop has its score there. Points, box and logits are given for the whole photo, the
        logits as the only decoder pass. The confidence map is always that of the whole photo.
        """
        whole = self._method.segment_encoded(photo, subject, exclude)
        known = exclude is not None and mostly_inside(whole.mask, exclude)
        best, highest = whole, -1.0 if known else likeness(photo, whole.mask, subject)
        for crop, found in self._in_crops(photo, subject, exclude):
            own = likeness(crop.photo, found.mask, subject)
            if own > highest:
                best, highest = _on_photo(found, crop, photo, whole), own
        return best

    def _in_crops(
        self, photo: EncodedPhoto, subject: Subject, exclude: NDArray[np.bool_] | None
    ) -> Iterator[tuple[Crop, Segmentation]]:
        """Yield each crop in which the subject is found whole and where it was not before, and what was found."""
        for crop in photo.crops:
            hidden = None if exclude is None else crop.of(exclude)
            if hidden is not None and hidden.all():
                continue
            found = self._method.segment_encoded(crop.photo, subject, hidden)
            known = hidden is not None and mostly_inside(found.mask, hidden)
            cut = is_cut(found.mask, crop.box, (photo.frame.height, photo.frame.width))
            if found.mask.any() and not known and not cut:
                yield crop, found


def likeness(photo: EncodedPhoto, mask: NDArray[np.bool_], subject: Subject) -> float:
    """Return the cosine of the mean feature under a mask with the subject's target feature; -1 for an empty mask.

    Args:
        photo: the encoded photo or crop.
        mask: (H, W) bool over it.
        subject: of the method that encoded it.
    """
    if not mask.any():
        return -1.0
    target = F.normalize(subject.target_feature, dim=0)
    return float(prototype(photo.compared, torch.from_numpy(mask)) @ target)


def _on_photo(found: Segmentation, crop: Crop, photo: EncodedPhoto, whole: Segmentation) -> Segmentation:
    """Return what was found in a crop as the segmentation of the whole photo."""
    left, top, *_ = crop.box
    size = (photo.frame.height, photo.frame.width)
    mask, logits = np.zeros(size, dtype=bool), torch.full(size, float(found.logits.min()))
    crop.of(mask)[:] = found.mask
    crop.of(logits)[:] = crop.photo.frame.to_original(torch.from_numpy(found.logits)[None])[0]
    kept = photo.frame.to_grid(logits, FINER * photo.embedding.shape[-1], float(logits.min()), "bilinear").numpy()
    score = np.array([found.score], dtype=np.float32)
    assert found.box is not None, "a mask that is not empty has a box"
    return Segmentation(
        mask=mask,
        score=found.score,
        points=found.points + np.array([left, top]),
        point_labels=found.point_labels,
        box=found.box + np.array([left, top, left, top]),
        confidence_map=whole.confidence_map,
        attention_bias=None,
        passes=(DecoderPass(kept[None], score, 0, kept, None),),
        warnings=found.warnings,
    )
