"""Cascaded post-refinement: decode again, prompted with the previous mask and its box."""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.segmentation.backbones import Backbone, Prompts
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.types import DecoderPass, EncodedPhoto

FINER: Final = 4
"""Resolution of SAM's mask prompts and low-resolution masks, relative to its embedding, along each side."""
CERTAINTY: Final = 8.0
"""Logit inside a mask that is given as SAM's mask prompt; outside it, the negative of this."""


def refine(
    backbone: Backbone, photo: EncodedPhoto, initial: Prompts, previous: Tensor, with_box: bool
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Run one pass of cascaded post-refinement.

    Args:
        backbone: the SAM.
        photo: encoded by it.
        initial: points and labels of the first pass, in the model frame.
        previous: (h', w') float32 logits of the mask to refine, on the model square.
        with_box: also prompt with the tight box around that mask.

    Returns:
        (3, h', w') float32 logits, (3,) float32 predicted IoU, and the box, (4,) XYXY in pixels of the original frame,
        or None without one; None in place of all three if there is no mask to put a box around.
    """
    frame = photo.frame
    box = bounding_box(frame.to_original(previous[None])[0] > 0) if with_box else None
    if with_box and box is None:
        return None
    model_box = None if box is None else frame.box_to_model(box)
    prompts = Prompts(initial.points, initial.labels, model_box, previous)
    logits, predicted_iou = backbone.decode(photo.embedding, prompts, multimask=True, extra=photo.extra)
    return logits, predicted_iou, box


def cascade(
    backbone: Backbone, photo: EncodedPhoto, initial: Prompts, first: DecoderPass, with_boxes: Sequence[bool]
) -> list[DecoderPass]:
    """Refine a mask in several passes, each prompted with the mask of the one before.

    Args:
        backbone: the SAM.
        photo: encoded by it.
        initial: points and labels of the first pass, in the model frame.
        first: the first pass.
        with_boxes: for each further pass, whether to prompt also with the tight box around the previous mask.

    Returns:
        The first pass and the further ones; fewer than asked for if a previous mask has no box.
    """
    passes = [first]
    for with_box in with_boxes:
        previous = torch.as_tensor(passes[-1].kept, device=photo.embedding.device)
        refined = refine(backbone, photo, initial, previous, with_box)
        if refined is None:
            break
        passes.append(recorded(*refined))
    return passes


def as_logits(
    mask: NDArray[np.bool_], photo: EncodedPhoto, magnitude: float, mode: Literal["bilinear", "area"]
) -> Tensor:
    """Convert a mask to logits like those of a decoder pass.

    Args:
        mask: (H, W) bool, original frame.
        photo: the encoded photo.
        magnitude: logit inside the mask; outside and in the padding it is negated.
        mode: of the resampling, as in `Frame.to_grid`.

    Returns:
        (h', w') float32 on the model square, on the photo's device.
    """
    low = photo.frame.to_grid(torch.from_numpy(mask).float(), FINER * photo.embedding.shape[-1], 0.0, mode)
    return ((2 * low - 1) * magnitude).to(photo.embedding.device)


def recorded(logits: Tensor, predicted_iou: Tensor, box: Tensor | None, weights: Tensor | None = None) -> DecoderPass:
    """Record a decoder pass on the CPU; keep the mask with the best predicted IoU, or the sum by equation 11."""
    index = int(predicted_iou.argmax())
    kept = logits[index] if weights is None else torch.einsum("k,khw->hw", weights, logits)
    return DecoderPass(
        logits=logits.float().cpu().numpy(),
        predicted_iou=predicted_iou.float().cpu().numpy(),
        index=index,
        kept=kept.float().cpu().numpy(),
        box=None if box is None else box.cpu().numpy(),
    )
