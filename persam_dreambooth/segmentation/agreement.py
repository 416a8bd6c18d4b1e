"""Presence check without calibration: a mask is the subject's if other methods find the subject there too.

The other methods are INSID3, on a DINOv3, and where its weights are at hand SAM 3 with the reference as its exemplar.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from persam_dreambooth.errors import UserError
from persam_dreambooth.images import mask_iou
from persam_dreambooth.segmentation.exemplar import Exemplar
from persam_dreambooth.segmentation.loading import DINO, load_segmenter
from persam_dreambooth.segmentation.method import Insid3Method
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.presence import MaskCheck, Presence
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, Reference, Segmentation

MIN_IOU: Final = 0.5
"""Minimum IoU at which two masks agree; on tinyworld, any value from 0.2 to 0.6 gives nearly the same verdicts."""


@dataclass(frozen=True)
class Agreement:
    """Settings of the methods whose masks must agree.

    Attributes:
        features: hub name or folder of INSID3's DINOv3.
        features_size: side of the square that it sees, in pixels; None for 64 patches.
        exemplar: hub name or folder of a SAM 3 that must agree too; None for INSID3 alone.
    """

    features: str = DINO
    features_size: int | None = None
    exemplar: str | None = None

    def load(
        self, device: torch.device | str | None = None, cache: Path | str | None = None, crop_n_layers: int = 0
    ) -> tuple[OneShotSegmenter | Exemplar, ...]:
        """Load the methods; INSID3 searches crops if the PerSAM does. Arguments and errors as in `load_segmenter`."""
        insid3 = load_segmenter(
            Insid3Method(), "", self.features, self.features_size, device, cache=cache, crop_n_layers=crop_n_layers
        )
        return (insid3,) if self.exemplar is None else (insid3, Exemplar.from_pretrained(self.exemplar, device))


class AgreementCheck(MaskCheck[Presence]):
    """Decide whether a photo shows the subject, by the IoU of the mask with the masks of other methods.

    Use it in place of a `PresenceCheck`. The verdict is "found" at an IoU of at least `MIN_IOU` with each of them,
    "not found" if none of them finds anything, and "unsure" in between. The lowest IoU is stored as `probability`, so
    that photos can be sorted by it; it is not a probability.

    Args:
        segmenter: the PerSAM whose masks are checked.
        subject: the subject that it searches for.
        references: the photos and masks that the subject was made from, for the other methods too.
        others: the other methods, at least one.

    Raises:
        UserError: no other method.
    """

    def __init__(
        self,
        segmenter: OneShotSegmenter,
        subject: Subject,
        references: Sequence[Reference],
        *others: OneShotSegmenter | Exemplar,
    ) -> None:
        super().__init__(segmenter, subject)
        if not others:
            raise UserError("agreement needs another method; give an INSID3, or an INSID3 and a SAM 3")
        self._others = [(other.label, _searching(other, references)) for other in others]
        self._found: tuple[Picture, list[tuple[str, NDArray[np.bool_]]]] | None = None

    def __call__(self, image: Picture, photo: EncodedPhoto, found: Segmentation) -> Presence:
        """Decide on one mask; arguments as in `PresenceMeter.__call__`."""
        if not found.mask.any():
            return Presence("not found", 0.0, "the mask is empty")
        masks = self._masks(image)
        if not any(mask.any() for _, mask in masks):
            names = " and ".join(name for name, _ in masks)
            return Presence("not found", 0.0, f"the subject is nowhere in the photo, according to {names}")
        name, other = min(masks, key=lambda named: mask_iou(found.mask, named[1]))
        agreement = mask_iou(found.mask, other)
        if agreement >= MIN_IOU:
            return Presence("found", agreement, None)
        where = f"elsewhere (IoU {agreement:.2f})" if other.any() else "nowhere in the photo"
        return Presence("unsure", agreement, f"{name} finds the subject {where}")

    def _masks(self, image: Picture) -> list[tuple[str, NDArray[np.bool_]]]:
        """Return the other methods' masks, (H, W) bool, found once for all masks of a photo."""
        if self._found is None or self._found[0] is not image:
            self._found = image, [(name, search(image)) for name, search in self._others]
        return self._found[1]


def _searching(
    other: OneShotSegmenter | Exemplar, references: Sequence[Reference]
) -> Callable[[Picture], NDArray[np.bool_]]:
    """Return a function that finds the references' subject in a photo, as an (H, W) bool mask."""
    if isinstance(other, Exemplar):
        return lambda image: other.find(image, references)
    subject = other.personalize(references)
    return lambda image: other.segment(image, subject).mask
