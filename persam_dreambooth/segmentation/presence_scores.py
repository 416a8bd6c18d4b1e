"""What tells a mask of the subject from a mask of something else: five signals, each the more the better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from persam_dreambooth.segmentation import location
from persam_dreambooth.segmentation.appearance import ImageEncoder, cut_out
from persam_dreambooth.segmentation.persam import PerSAM
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, Reference, Segmentation, rgb_array


@dataclass(frozen=True)
class Signals:
    """What speaks for the subject's being there; of each, more is better.

    Attributes:
        likeness: highest confidence inside the mask, as a share of the reference's own inside its mask.
        contrast: mean confidence inside the mask less that outside of it.
        cycle: IoU of the reference mask with what a subject made of the found mask finds in the reference photo.
        score: predicted IoU of the mask.
        appearance: cosine between an image encoder's features of the two cut-outs; None without an encoder.
    """

    likeness: float
    contrast: float
    cycle: float
    score: float
    appearance: float | None = None


class SignalMeter:
    """Measure the signals of what was found of one subject.

    Args:
        persam: what found it.
        subject: who was looked for.
        references: the photos and masks that the subject was made of.
        encoder: measures `appearance`.
        encoded: what `PerSAM.encode_references` made of the references, where that is at hand.
    """

    def __init__(
        self,
        persam: PerSAM,
        subject: Subject,
        references: Sequence[Reference],
        encoder: ImageEncoder | None = None,
        encoded: Sequence[EncodedPhoto] | None = None,
    ) -> None:
        self._persam, self._subject, self._encoder = persam, subject, encoder
        self._references = list(zip(references, encoded or persam.encode_references(references), strict=True))
        self._own = max(self._confidence(photo, reference.foreground) for reference, photo in self._references)
        self._looks = None
        if encoder is not None:
            self._looks = encoder.encode([cut_out(one.pixels, one.foreground) for one in references])

    def __call__(self, image: Picture, photo: EncodedPhoto, found: Segmentation) -> Signals | None:
        """Measure; None for an empty mask, which has nothing to be measured by.

        Args:
            image: the photo.
            photo: what `PerSAM.encode` made of it.
            found: what `PerSAM.segment` found in it.
        """
        if not found.mask.any():
            return None
        pixels = rgb_array(image)
        inside, outside = found.confidence_map[found.mask], found.confidence_map[~found.mask]
        bounded = len(outside) > 0  # a mask without an outside stands out from nothing and teaches nothing
        return Signals(
            likeness=float(inside.max()) / self._own,
            contrast=float(inside.mean() - outside.mean()) if bounded else 0.0,
            cycle=self._cycle(pixels, photo, found.mask) if bounded else 0.0,
            score=found.score,
            appearance=self._appearance(pixels, found.mask),
        )

    def _confidence(self, photo: EncodedPhoto, mask: NDArray[np.bool_]) -> float:
        """The highest inside a mask."""
        confidence = location.on_photo(self._subject.target_feature, photo)
        return float(confidence[torch.from_numpy(mask).to(confidence.device)].max())

    def _appearance(self, pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float | None:
        """The cosine with the reference that looks most alike."""
        if self._encoder is None or self._looks is None:
            return None
        return float((self._looks @ self._encoder.encode([cut_out(pixels, mask)])[0]).max())

    def _cycle(self, pixels: NDArray[np.uint8], photo: EncodedPhoto, mask: NDArray[np.bool_]) -> float:
        """Mean over the references of the IoU between their masks and what is found in them from this photo."""
        back = self._persam.personalize(Reference(pixels, mask), self._subject.mask_weights, [photo])
        overlaps = []
        for reference, encoded in self._references:
            seen, true = self._persam.segment(encoded, back).mask, reference.foreground
            overlaps.append((seen & true).sum() / (seen | true).sum())
        return float(np.mean(overlaps))
