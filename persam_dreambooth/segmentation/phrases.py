"""Make a reference mask from a phrase, and rate masks that a phrase does not describe as not found."""

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.presence import MaskCheck, Presence
from persam_dreambooth.segmentation.reference_masks import reference_from
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.text_locator import TextLocator, TextMatch, TextPrompt
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, Reference, Segmentation, rgb_array


def reference_from_text(
    segmenter: OneShotSegmenter, locator: TextLocator, image: Picture, prompt: TextPrompt
) -> Reference:
    """Create a reference mask from the phrase's match with the highest score.

    SAM 3's mask is used as it is. For the other models, the segmenter's SAM makes the mask from the match's box; if
    there is no SAM, CLIPSeg's coarse mask is used.

    Args:
        segmenter: provides the SAM, if it has one.
        locator: the model that locates the phrase.
        image: the reference image.
        prompt: the phrase.

    Raises:
        UserError: nothing in the photo matches, a box was found and there is no SAM, or as `reference_from`.
    """
    pixels = rgb_array(image)
    matches = locator.locate(pixels, prompt)
    if not matches:
        raise UserError(
            f"no {prompt.phrase!r} was found in the reference photo with a score above {locator.threshold(prompt):g}; "
            "choose another photo, other words or a lower threshold, or give the reference's mask"
        )
    best = matches[0]
    if best.mask is not None and best.mask.all():
        raise UserError(
            f"{prompt.phrase!r} was found in every pixel of the reference photo, which leaves no background; choose "
            "another photo, other words or a higher threshold, or give the reference's mask"
        )
    if best.mask is not None and (locator.draws_outlines or segmenter.backbone is None):
        return Reference(pixels, best.mask)
    if segmenter.box_is_mask:
        raise UserError(
            f"{segmenter.label} has no SAM to make a mask from the box around {prompt.phrase!r}; give the reference's "
            "mask, or a model that draws masks, such as CLIPSeg"
        )
    return reference_from(segmenter, pixels, best.box)


class PhraseCheck(MaskCheck[Presence | None]):
    """Rate masks that a phrase does not describe as not found, and leave the others to a presence rule.

    A phrase describes a mask if the box around the mask overlaps a match's box with an IoU of at least
    `prompt.overlap`. It tells kinds of things apart, not individuals.

    Args:
        segmenter: the method that segments.
        subject: the subject that is searched for.
        locator: the model that locates the phrase.
        prompt: the phrase.
        check: decides on the masks that the phrase describes; None leaves these undecided.
    """

    def __init__(
        self,
        segmenter: OneShotSegmenter,
        subject: Subject,
        locator: TextLocator,
        prompt: TextPrompt,
        check: MaskCheck[Presence] | None = None,
    ) -> None:
        super().__init__(segmenter, subject)
        self._locator, self._prompt, self._check = locator, prompt, check
        self._located: tuple[Picture, list[TextMatch]] | None = None

    def __call__(self, image: Picture, photo: EncodedPhoto, found: Segmentation) -> Presence | None:
        """Decide on one photo; arguments as in `PresenceMeter.__call__`.

        Returns:
            None if the phrase describes the mask and there is no presence rule.
        """
        if not found.mask.any():
            return Presence("not found", 0.0, "the mask is empty")
        matches = self._matches(image)
        overlap = max((_box_iou(match.box, found.mask) for match in matches), default=0.0)
        if not matches or overlap < self._prompt.overlap:
            where = f"its box overlaps with {overlap:.2f}" if matches else "nothing in the photo"
            return Presence("not found", 0.0, f"the mask is not on what {self._prompt.phrase!r} describes ({where})")
        return self._check(image, photo, found) if self._check else None

    def _matches(self, image: Picture) -> list[TextMatch]:
        """Locate the phrase, once for all masks of a photo."""
        if self._located is None or self._located[0] is not image:
            self._located = image, self._locator.locate(image, self._prompt)
        return self._located[1]


def _box_iou(box: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    """Return the IoU of a (4,) XYXY box with the box around an (H, W) mask that is not empty."""
    around = bounding_box(torch.from_numpy(mask))
    assert around is not None
    outer = (around + torch.tensor([0, 0, 1, 1])).double()
    return float(box_iou(torch.from_numpy(box)[None], outer[None])[0, 0])
