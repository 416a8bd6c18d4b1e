"""Presence check without calibration: a mask is the subject's if INSID3 (on a DINOv3) finds the subject there too."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from persam_dreambooth.images import mask_iou
from persam_dreambooth.segmentation.insid3 import INSID3
from persam_dreambooth.segmentation.loading import DINO
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.presence import MaskCheck, Presence
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, Reference, Segmentation

MIN_IOU: Final = 0.5
"""Minimum IoU at which the two masks agree; on tinyworld, any value from 0.2 to 0.6 gives nearly the same verdicts."""


@dataclass(frozen=True)
class Agreement:
    """Settings of the INSID3 whose mask must agree.

    Attributes:
        features: hub name or folder of its DINOv3.
        features_size: side of the square that it sees, in pixels; None for 64 patches.
    """

    features: str = DINO
    features_size: int | None = None

    def load(self, device: torch.device | str | None = None, cache: Path | str | None = None) -> INSID3:
        """Load INSID3; arguments and errors as in `INSID3.from_pretrained`."""
        return INSID3.from_pretrained(self.features, None, device, image_size=self.features_size, cache=cache)


class AgreementCheck(MaskCheck[Presence]):
    """Decide whether a photo shows the subject, by the IoU of the mask with INSID3's mask.

    Use it in place of a `PresenceCheck`. The verdict is "found" at an IoU of at least `MIN_IOU`, "not found" if INSID3
    finds nothing, and "unsure" in between. The IoU is stored as `probability`, so that photos can be sorted by it; it
    is not a probability.

    Args:
        segmenter: the PerSAM whose masks are checked.
        subject: the subject that it searches for.
        references: the photos and masks that the subject was made from.
        insid3: learns the subject from the same references.
    """

    def __init__(
        self, segmenter: OneShotSegmenter, subject: Subject, references: Sequence[Reference], insid3: INSID3
    ) -> None:
        super().__init__(segmenter, subject)
        self._insid3, self._other = insid3, insid3.personalize(references)
        self._found: tuple[Picture, NDArray[np.bool_]] | None = None

    def __call__(self, image: Picture, photo: EncodedPhoto, found: Segmentation) -> Presence:
        """Decide on one mask; arguments as in `PresenceMeter.__call__`."""
        if not found.mask.any():
            return Presence("not found", 0.0, "the mask is empty")
        other = self._mask(image)
        if not other.any():
            return Presence("not found", 0.0, "INSID3 finds the subject nowhere in the photo")
        agreement = mask_iou(found.mask, other)
        if agreement >= MIN_IOU:
            return Presence("found", agreement, None)
        return Presence("unsure", agreement, f"INSID3 finds the subject elsewhere (IoU {agreement:.2f})")

    def _mask(self, image: Picture) -> NDArray[np.bool_]:
        """Return INSID3's mask, (H, W) bool, found once for all masks of a photo."""
        if self._found is None or self._found[0] is not image:
            self._found = image, self._insid3.segment(image, self._other).mask
        return self._found[1]
