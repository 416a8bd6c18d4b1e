"""The SAM variants supported by PerSAM, each a `Backbone`."""

from pathlib import Path
from typing import Final, TypeAlias

import torch
from segment_anything.modeling import Sam
from transformers import SamModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.backbones.base import Backbone, Prompts
from persam_dreambooth.segmentation.backbones.checkpoints import read_checkpoint
from persam_dreambooth.segmentation.backbones.efficient_sam import EfficientSam, PointEncoder
from persam_dreambooth.segmentation.backbones.original_sam import OriginalSam
from persam_dreambooth.segmentation.backbones.published import SUFFIXES, check_published
from persam_dreambooth.segmentation.backbones.transformers_sam import (
    FAMILIES,
    TransformersModel,
    TransformersSam,
    with_larger_input,
)
from persam_dreambooth.segmentation.pretrained import check_pretrained, load_pretrained
from persam_dreambooth.torch_utils import choose_device

__all__ = ["Backbone", "BuiltSam", "OriginalSam", "Prompts", "TransformersSam", "check_backbone", "load_backbone"]

BuiltSam: TypeAlias = Sam | TransformersModel
"""An instantiated SAM of either package."""
EXAMPLES: Final = "facebook/sam-vit-base, or the path of a .pth file"
LARGER: Final = "only transformers' SAM models, such as facebook/sam-vit-huge, can take a larger square"


def load_backbone(
    source: str | Path | BuiltSam,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    size: int | None = None,
) -> Backbone:
    """Load a SAM as a `Backbone`.

    Args:
        source: a hub name ("facebook/sam-vit-huge") or folder of a transformers SAM, SAM-HQ, SAM 2,
            EdgeTAM or SAM 3; the path of an original `.pth` checkpoint, also of MobileSAM, EdgeSAM or EfficientSAM; or
            an instantiated model of either package.
        device: None uses an accelerator if there is one.
        dtype: of the image encoder; decoding is always float32.
        size: side in pixels of a square larger than the SAM was trained with, for a `SamModel` only; see
            `with_larger_input`. None uses the SAM's own.

    Raises:
        UserError: nothing found, not a SAM, a file that could run code, or a size that the SAM cannot have.
    """
    device = choose_device(device)
    if size is not None and (isinstance(source, Sam) or Path(str(source)).suffix in SUFFIXES):
        raise UserError(f"{LARGER}, not an original checkpoint; give one of them, or leave the size out")
    if isinstance(source, Sam):
        return _original(source, type(source).__name__, device, dtype)
    if not isinstance(source, str | Path):
        for model_class, family in FAMILIES.values():
            if isinstance(source, model_class):
                name = source.config._name_or_path or type(source).__name__
                return family(_sized(source, size), name, device, dtype)
        raise UserError(
            f"a {type(source).__name__} is not a SAM; pass a model of type {', '.join(FAMILIES)}, or a hub name"
        )
    if Path(source).suffix in SUFFIXES:
        return _original(read_checkpoint(Path(source)), Path(source).name, device, dtype)
    classes = {kind: model_class for kind, (model_class, _) in FAMILIES.items()}
    model, kind = load_pretrained(str(source), classes, "SAM", EXAMPLES)
    return FAMILIES[kind][1](_sized(model, size), str(source), device, dtype)


def check_backbone(source: str) -> None:
    """Refuse the name of a SAM that is not there or, by its config, no SAM; no weights are loaded.

    Raises:
        UserError: nothing found, or not a SAM.
    """
    if Path(source).suffix in SUFFIXES:
        check_published(Path(source))
    else:
        check_pretrained(source, FAMILIES, "SAM", EXAMPLES)


def _sized(model: TransformersModel, size: int | None) -> TransformersModel:
    """Return the model itself, or, if a size is given, a copy with a larger input."""
    if size is None:
        return model
    if not isinstance(model, SamModel):
        raise UserError(f"{LARGER}, not a {type(model).__name__}; give one of them, or leave the size out")
    return with_larger_input(model, size)


def _original(sam: Sam, name: str, device: torch.device, dtype: torch.dtype) -> OriginalSam:
    """Return the backbone of a segment-anything model; EfficientSAM is recognized by its prompt encoder."""
    backbone = EfficientSam if isinstance(sam.prompt_encoder, PointEncoder) else OriginalSam
    return backbone(sam, name, device, dtype)
