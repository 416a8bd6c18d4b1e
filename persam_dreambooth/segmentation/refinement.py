"""Cascaded post-refinement: decode again, prompted with the previous mask and its box."""

import torch
from torch import Tensor

from persam_dreambooth.segmentation.backbones import Backbone, Prompts
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.types import DecoderPass, EncodedPhoto


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
