"""SAM 3 with an exemplar: it finds in a photo what the reference's mask shows.

SAM 3 (Carion et al. 2025, arXiv 2511.16719) reads exemplars, boxes around a thing, only in the picture that it
segments. So reference and photo are put on one canvas, and the exemplar is the box around the reference's mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import Sam3Model, Sam3Processor

from persam_dreambooth.segmentation.encoding import check_finite
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.pretrained import load_pretrained, load_processor
from persam_dreambooth.segmentation.types import Picture, Reference, rgb_array
from persam_dreambooth.torch_utils import choose_device

THRESHOLD: Final = 0.3
"""Score that a match must exceed, transformers' default for SAM 3."""
LONGEST: Final = 2016
"""Longest side of a photo on the canvas, in pixels: twice that of the square into which SAM 3 squeezes the canvas."""
INSIDE: Final = 0.5
"""Least share of a match's pixels that lie on the photo; the others are matches on the reference."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """A reference and a photo in one picture, without a gap.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        box: (4,) float64 XYXY, the edges of the box around the reference's mask, in pixels of the canvas.
        top, left: where the photo begins, in pixels; it ends with the canvas, and has its own resolution.
    """

    pixels: NDArray[np.uint8]
    box: NDArray[np.float64]
    top: int
    left: int

    @classmethod
    def of(cls, reference: Reference, photo: NDArray[np.uint8]) -> Self:
        """Put the reference beside or above an (H, W, 3) uint8 photo, whichever is closer to a square.

        The reference is resized, at its own aspect ratio, to the photo's height or width. SAM 3 squeezes the canvas
        into a square, so a long one would be distorted most.
        """
        mask = reference.foreground
        own, given = mask.shape[::-1], photo.shape[1::-1]  # (width, height) of the reference and the photo
        beside = max(1, round(own[0] * given[1] / own[1])), given[1]
        above = given[0], max(1, round(own[1] * given[0] / own[0]))
        across = _elongation(beside[0] + given[0], given[1]) <= _elongation(given[0], above[1] + given[1])
        size = beside if across else above
        resized = np.asarray(Image.fromarray(reference.pixels).resize(size, Image.Resampling.BICUBIC))
        box = bounding_box(torch.from_numpy(mask))
        assert box is not None, "a reference's mask is not empty"
        edges = box.numpy() + np.array([0, 0, 1, 1])  # from the last pixels inside to the edges
        scaled = edges * np.tile(np.divide(size, own), 2)
        top, left = (0, size[0]) if across else (size[1], 0)
        return cls(np.concatenate([resized, photo], axis=1 if across else 0), scaled, top, left)


def _elongation(width: int, height: int) -> float:
    return max(width, height) / min(width, height)


class Exemplar:
    """A SAM 3 that searches photos for what a reference's mask shows.

    It finds a kind of thing: of several individuals that look alike, the one with the highest score.

    Args:
        model: a `Sam3Model` of any size; it is frozen and moved to the device, in float32.
        processor: its processor.
        device: None uses an accelerator if there is one.
    """

    label = "SAM 3"

    def __init__(self, model: Any, processor: Any, device: torch.device | str | None = None) -> None:
        self._processor, self._device = processor, choose_device(device)
        self._model = model.eval().requires_grad_(False).to(self._device, torch.float32)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: torch.device | str | None = None) -> Self:
        """Load by hub name ("facebook/sam3") or from a folder; of a SAM 3 with a tracker, the detector is loaded.

        Raises:
            UserError: nothing found, another kind of model, or no tokenizer or image processor.
        """
        classes = {"sam3": Sam3Model, "sam3_video": Sam3Model}
        model, _ = load_pretrained(str(source), classes, "SAM 3", "facebook/sam3")
        return cls(model, load_processor(str(source), Sam3Processor), device)

    @torch.no_grad()
    def find(self, image: Picture, references: Sequence[Reference]) -> NDArray[np.bool_]:
        """Return the (H, W) bool mask of the best match in a photo, over all references; empty without a match.

        Raises:
            UserError: the model returns NaN.
        """
        whole = rgb_array(image)
        shrunk = Image.fromarray(whole)
        shrunk.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC)
        photo = np.asarray(shrunk)
        best, found = 0.0, np.zeros(photo.shape[:2], dtype=bool)
        for reference in references:
            canvas = Canvas.of(reference, photo)
            scores, masks = self._matches(canvas)
            on_photo = masks[:, canvas.top :, canvas.left :]
            inside = on_photo.sum((1, 2)) >= INSIDE * masks.sum((1, 2)).clip(min=1)
            for score, mask in zip(scores[inside], on_photo[inside], strict=True):
                if score > best:
                    best, found = float(score), mask
        mask = Image.fromarray(found.astype(np.uint8) * 255).resize(whole.shape[1::-1], Image.Resampling.BILINEAR)
        return np.asarray(mask) >= 128

    def _matches(self, canvas: Canvas) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the scores, (n,), and masks, (n, H, W), of what resembles the exemplar anywhere on the canvas."""
        inputs = self._processor(
            images=Image.fromarray(canvas.pixels),
            input_boxes=[[canvas.box.tolist()]],
            input_boxes_labels=[[1]],
            return_tensors="pt",
        ).to(self._device)
        inputs.pop("original_sizes", None)
        output = self._model(**inputs)
        size = canvas.pixels.shape[:2]
        (matches,) = self._processor.post_process_instance_segmentation(output, THRESHOLD, target_sizes=[size])
        check_finite(output.pred_logits, "the SAM 3")
        return matches["scores"].cpu().numpy(), (matches["masks"] > 0).cpu().numpy()
