"""Read the original checkpoint files of SAM, MobileSAM, EdgeSAM and EfficientSAM."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from persam_dreambooth.errors import UserError, is_out_of_memory
from persam_dreambooth.segmentation.backbones import edge_sam, efficient_sam, mobile_sam
from persam_dreambooth.segmentation.backbones.published import State, read_published

TYPE_BY_WIDTH: Final = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""Width of the image encoder's tokens -> segment-anything's name for that size."""
SMALL: Final[dict[str, Callable[[State], tuple[Sam, dict[str, Tensor]]]]] = {
    small.KNOWN_BY: small.from_published for small in (mobile_sam, edge_sam, efficient_sam)
}
"""Name of a weight that only this SAM has -> function that builds the model and renames the weights."""


def read_checkpoint(path: Path) -> Sam:
    """Build a `Sam` from its authors' checkpoint: SAM's `.pth`, MobileSAM's `.pt`, EdgeSAM's or EfficientSAM's.

    The kind and size are inferred from the weights, not from the file name. The file is read with
    `weights_only=True`, so no code in it can run.

    Raises:
        UserError: no such file, not a PyTorch file, it holds more than tensors, or not a checkpoint of these models.
    """
    state = read_published(path)
    width = _encoder_width(state)
    small = next((build for known, build in SMALL.items() if isinstance(state, dict) and known in state), None)
    if small is None and width not in TYPE_BY_WIDTH:
        found = "no SAM image encoder" if width is None else f"an image encoder of width {width}"
        raise UserError(
            f"{path} holds {found}; an original SAM checkpoint is ViT-B, L or H (width 768, 1024 or 1280), MobileSAM, "
            "EdgeSAM or EfficientSAM. For another size, build the Sam yourself and pass the object"
        )
    try:
        if small is not None:
            sam, state = small(state)
        elif width is not None:
            sam = sam_model_registry[TYPE_BY_WIDTH[width]]()
        sam.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
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
