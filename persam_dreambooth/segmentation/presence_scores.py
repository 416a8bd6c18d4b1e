"""Five presence scores (higher is better) that separate masks of the subject from masks of something else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from persam_dreambooth.images import mask_iou
from persam_dreambooth.segmentation.appearance import ImageEncoder, cut_out
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, Reference, Segmentation, rgb_array


@dataclass(frozen=True)
class PresenceScores:
    """Presence scores of one mask; higher is better for all of them.

    Attributes:
        likeness: highest confidence inside the mask, relative to the reference's own inside its mask.
        contrast: mean confidence inside the mask minus that outside.
        cycle: the way back: with this mask as the reference, IoU of the mask found in the reference photo with the one
            that was given.
        score: predicted IoU of the mask.
        appearance: cosine of an image encoder's features of the two cut-outs; None without an encoder.
    """

    likeness: float
    contrast: float
    cycle: float
    score: float
    appearance: float | None = None


class PresenceMeter:
    """Computes the presence scores of one subject's masks.

    Args:
        segmenter: the method that segmented.
        subject: the subject that was searched for.
        references: the photos and masks that the subject was made from.
        encoder: image encoder for the `appearance` score.
        encoded: the references from `OneShotSegmenter.encode_references`, if already available.
    """

    def __init__(
        self,
        segmenter: OneShotSegmenter,
        subject: Subject,
        references: Sequence[Reference],
        encoder: ImageEncoder | None = None,
        encoded: Sequence[EncodedPhoto] | None = None,
    ) -> None:
        self._segmenter, self._encoder = segmenter, encoder
        self._references = list(zip(references, encoded or segmenter.encode_references(references), strict=True))
        self._subject = subject.to(self._references[0][1].embedding.device)
        self._own = max(self._confidence(photo, reference.foreground) for reference, photo in self._references)
        self._reference_features = None
        if encoder is not None:
            cut_outs = [cut_out(reference.pixels, reference.foreground) for reference in references]
            self._reference_features = encoder.encode(cut_outs)

    def __call__(self, image: Picture, photo: EncodedPhoto, found: Segmentation) -> PresenceScores | None:
        """Compute the presence scores of one mask; None for an empty mask.

        Args:
            image: the photo.
            photo: the same photo from `OneShotSegmenter.encode`.
            found: the photo's segmentation from `OneShotSegmenter.segment`.
        """
        if not found.mask.any():
            return None
        pixels = rgb_array(image)
        inside, outside = found.confidence_map[found.mask], found.confidence_map[~found.mask]
        bounded = len(outside) > 0  # a full mask has no background to compare with, and cannot be a reference
        return PresenceScores(
            likeness=float(inside.max()) / self._own,
            contrast=float(inside.mean() - outside.mean()) if bounded else 0.0,
            cycle=self._cycle(pixels, photo, found.mask) if bounded else 0.0,
            score=found.score,
            appearance=self._appearance(pixels, found.mask),
        )

    def _confidence(self, photo: EncodedPhoto, mask: NDArray[np.bool_]) -> float:
        """Return the highest confidence inside a mask."""
        confidence = self._segmenter.confidence(photo, self._subject)
        return float(confidence[torch.from_numpy(mask).to(confidence.device)].max())

    def _appearance(self, pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float | None:
        """Return the cosine with the most similar reference."""
        if self._encoder is None or self._reference_features is None:
            return None
        return float((self._reference_features @ self._encoder.encode([cut_out(pixels, mask)])[0]).max())

    def _cycle(self, pixels: NDArray[np.uint8], photo: EncodedPhoto, mask: NDArray[np.bool_]) -> float:
        """Use this mask as the reference; return the mean IoU of the reference masks with the masks found by it."""
        reverse = self._segmenter.personalize(Reference(pixels, mask), self._subject.mask_weights, [photo])
        ious = []
        for reference, encoded in self._references:
            found, true = self._segmenter.segment(encoded, reverse).mask, reference.foreground
            ious.append(mask_iou(found, true))
        return float(np.mean(ious))
