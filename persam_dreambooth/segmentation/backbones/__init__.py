"""The SAMs that PerSAM can stand on, each behind the `Backbone` protocol."""

import json
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam
from transformers import PretrainedConfig, SamModel

from persam_dreambooth.devices import choose_device
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.backbones.base import Backbone, Prompts
from persam_dreambooth.segmentation.backbones.original_sam import OriginalSam, read_checkpoint
from persam_dreambooth.segmentation.backbones.transformers_sam import TransformersSam

__all__ = ["Backbone", "OriginalSam", "Prompts", "TransformersSam", "load_backbone"]

CHECKPOINT_SUFFIXES = (".pth", ".pt")


def load_backbone(
    source: str | Path | Sam | SamModel,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Put a SAM behind the `Backbone` protocol.

    Args:
        source: a hub name ("facebook/sam-vit-huge") or folder of a transformers SAM; the path of
            an original `.pth` checkpoint; or a model already built by either package.
        device: None takes an accelerator where there is one.
        dtype: of the image encoder; decoding is always float32.

    Raises:
        UserError: nothing there, not a SAM, or a file that could run code.
    """
    device = choose_device(device)
    if isinstance(source, Sam):
        return OriginalSam(source, type(source).__name__, device, dtype)
    if isinstance(source, SamModel):
        return TransformersSam(source, source.config._name_or_path or type(source).__name__, device, dtype)
    if Path(source).suffix in CHECKPOINT_SUFFIXES:
        path = Path(source)
        if not path.is_file():
            raise UserError(f"no SAM checkpoint at {path}; give the path of a .pth file, a folder or a hub name")
        return OriginalSam(read_checkpoint(path), path.name, device, dtype)
    return TransformersSam(_from_transformers(str(source)), str(source), device, dtype)


def _from_transformers(name: str) -> SamModel:
    """Load a transformers SAM after making sure that it is one."""
    try:
        config, _ = PretrainedConfig.get_config_dict(name)
    except Exception as error:  # no folder, no network, no JSON: each version of transformers has its own names for it
        raise UserError(
            f"no SAM at {name!r}: no such folder or hub model could be read; give a folder with a config.json, "
            "a hub name such as facebook/sam-vit-base, or the path of a .pth file"
        ) from error
    if not isinstance(config, dict) or not config:
        raise UserError(f"{name} is not a SAM: it has no config.json, or one that says nothing")
    kind = config.get("model_type")
    if kind != "sam":
        raise UserError(
            f'{name} is not a SAM: its config.json says model_type {json.dumps(kind)}, a SAM\'s says "sam"'
        )
    try:
        loaded: Any = SamModel.from_pretrained(name, output_loading_info=True)
    except Exception as error:  # damaged files raise what safetensors, pickle and the config's checks each call it
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the SAM at {name} cannot be loaded ({reason}); it is damaged, download it again") from error
    model: SamModel
    model, report = loaded
    if report["missing_keys"]:
        # transformers fills what is missing with random numbers and goes on; the masks would be noise.
        raise UserError(
            f"{name} lacks {len(report['missing_keys'])} of a SAM's weights (for example "
            f"{sorted(report['missing_keys'])[0]}); it is damaged or not a SAM"
        )
    return model
