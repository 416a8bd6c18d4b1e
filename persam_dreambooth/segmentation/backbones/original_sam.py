"""Backbone for the segment-anything package's `Sam` and its original `.pth` checkpoints."""

import pickle
from pathlib import Path

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from persam_dreambooth.errors import UserError, is_out_of_memory
from persam_dreambooth.segmentation.backbones.base import Backbone, Prompts
from persam_dreambooth.segmentation.backbones.mobile_sam import KNOWN_BY, build_mobile_sam

# Width of the image encoder's tokens -> the package's name for that size.
TYPE_BY_WIDTH = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


class OriginalSam(Backbone):
    """A `segment_anything.modeling.Sam`.

    Args:
        model: of any size; it is frozen and moved to the device.
        name: stored in the subject.
        device: None uses an accelerator if there is one.
        dtype: of the image encoder.
    """

    def __init__(
        self,
        model: Sam,
        name: str,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(model, model.image_encoder, model.image_encoder.img_size, name, device, dtype)

    def _decode(
        self, embedding: Tensor, prompts: Prompts, multimask: bool, extra: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        sparse, dense = self._model.prompt_encoder(
            points=(prompts.points[None], prompts.labels[None]),
            boxes=None if prompts.box is None else prompts.box[None],
            masks=None if prompts.mask is None else prompts.mask[None, None],
        )
        logits, predicted_iou = self._model.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=self._model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        return logits[0], predicted_iou[0]


def read_checkpoint(path: Path) -> Sam:
    """Build a `Sam` from an original `.pth` checkpoint or MobileSAM's `.pt`.

    The type (ViT-B, L or H, or MobileSAM's TinyViT) is inferred from the weights, not from the file name. The file is
    read with `weights_only=True`, so no code in it can run.

    Raises:
        UserError: not a tensor file, more than tensors in it, or not an original SAM checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, or is not a PyTorch file, and was not loaded, because such a file can "
            "run code; use the original SAM checkpoint (a plain state dict) or a transformers SAM folder"
        ) from error
    except Exception as error:  # torch's unpickler raises a dozen kinds of exception for damaged files
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path} is damaged or not a PyTorch checkpoint; download it again") from error
    width = _encoder_width(state)
    if isinstance(state, dict) and KNOWN_BY in state:
        sam: Sam = build_mobile_sam()
    elif width in TYPE_BY_WIDTH:
        sam = sam_model_registry[TYPE_BY_WIDTH[width]]()
    else:
        found = "no SAM image encoder" if width is None else f"an image encoder of width {width}"
        raise UserError(
            f"{path} holds {found}; an original SAM checkpoint is ViT-B, L or H (width 768, 1024 or 1280) or "
            "MobileSAM. For another size, build the Sam yourself and pass the object"
        )
    try:
        sam.load_state_dict(state)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path} has a SAM's image encoder but lacks other SAM weights; download it again") from error
    return sam


def _encoder_width(state: object) -> int | None:
    """Return the width of the image encoder in a state dict, None if it has none."""
    if not isinstance(state, dict):
        return None
    position = state.get("image_encoder.pos_embed")  # (1, h, w, channels)
    return position.shape[-1] if isinstance(position, Tensor) and position.ndim else None
