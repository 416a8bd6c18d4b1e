"""Model families, one file each, behind one base class."""

import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import LORA_NAME, PIPELINE_INDEX, check_available
from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families.base import Conditioning, Family, Noised
from persam_dreambooth.training.families.flux import Flux
from persam_dreambooth.training.families.flux2 import Flux2, Flux2Klein
from persam_dreambooth.training.families.krea2 import Krea2
from persam_dreambooth.training.families.loading import single_file
from persam_dreambooth.training.families.lumina2 import Lumina2
from persam_dreambooth.training.families.qwen_image import QwenImage
from persam_dreambooth.training.families.sd3 import StableDiffusion3
from persam_dreambooth.training.families.sdxl import StableDiffusionXL
from persam_dreambooth.training.families.stable_diffusion import StableDiffusion
from persam_dreambooth.training.families.z_image import ZImage

__all__ = ["Conditioning", "Family", "Noised", "check_base_model", "load_family"]

FAMILIES: dict[str, type[Family]] = {
    family.pipeline_class.__name__: family
    for family in (
        *(StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux, Lumina2),
        *(QwenImage, Flux2Klein, Flux2, ZImage, Krea2),
    )
}
"""Each family, by the `_class_name` in its base models' `model_index.json`."""


def check_base_model(config: ModelConfig) -> type[Family]:
    """Determine a base model's family before any weights are loaded.

    It is read from the `model_index.json` of a folder or hub model, and inferred from the weights' names and shapes in
    a single file.

    Raises:
        UserError: no pipeline there, or one of an unsupported class.
    """
    name = str(config.pretrained_model_name_or_path)
    if config.pretrained_vae_model_name_or_path:
        check_available(config.pretrained_vae_model_name_or_path, "autoencoder")
    file = single_file(config)
    if file:
        return FAMILIES[file.pipeline]
    _refuse_what_is_no_pipeline(name)
    check_available(name, "base model")
    try:
        index = DiffusionPipeline.load_config(name, revision=config.revision)
        kind = index["_class_name"]
    except Exception as error:  # no folder, no network, no JSON, no index: each has its own exception
        raise UserError(
            f"no base model at {name!r}: no such folder or hub model could be read; give a hub name such as "
            "stable-diffusion-v1-5/stable-diffusion-v1-5, or the folder of a diffusers pipeline"
        ) from error
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"{name} is a {kind}, which cannot be trained yet; known: {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def _refuse_what_is_no_pipeline(name: str) -> None:
    """Refuse a folder of another kind of model, and name what it is."""
    path = Path(name)
    if not path.is_dir() or (path / PIPELINE_INDEX).exists():
        return
    if (path / LORA_NAME).exists():
        raise UserError(
            f"{name} holds LoRA weights and no base model; give their base model here, and the folder to "
            "--network_weights"
        )
    try:
        model = json.loads((path / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"the folder {name} holds no {PIPELINE_INDEX}, so it is not a diffusers pipeline; give the folder of one, "
            "or a hub name"
        ) from None
    raise UserError(
        f"{name} is a model of type {model!a}, not a diffusers pipeline (it has no {PIPELINE_INDEX}); give the folder "
        "of one, or a hub name"
    )


def load_family(config: ModelConfig, dtype: torch.dtype = torch.float32) -> Family:
    """Load a base model as its family; `dtype` is what is given to `Family.place` later."""
    return check_base_model(config).load(config, dtype)
