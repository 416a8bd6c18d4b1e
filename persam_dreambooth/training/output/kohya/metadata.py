"""Metadata of a file in kohya's format: what sd-scripts would write, as far as it is known."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from persam_dreambooth.text_files import readable

BASES: dict[str, tuple[str, dict[int, tuple[str, str | None]]]] = {
    # Layer name: sd-scripts' module for a LoRA with that layer; and by its input channels, the names of the base in
    # sd-scripts and in ModelSpec.
    "attn2_to_k": (
        "networks.lora",
        {
            768: ("sd_v1", "stable-diffusion-v1/lora"),
            1024: ("sd_v2", None),  # ModelSpec has two, for epsilon and v prediction
            2048: ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        },
    ),
    "linear1": ("networks.lora_flux", {3072: ("flux1", "flux-1/lora")}),  # dev and schnell look alike
    # 3 and 3.5 medium look alike
    "x_block_attn_qkv": ("networks.lora_sd3", {2432: ("5-large", "stable-diffusion-3-5-large/lora")}),
    "attention_qkv": ("networks.lora_lumina", {2304: ("lumina2", "lumina-2/lora")}),
}


def channels(converted: Mapping[str, Tensor], layer: str) -> int | None:
    """Return the input channels of a layer of this name, from its weights; None if there is no such layer."""
    end = f"_{layer}.lora_down.weight"
    return next((weight.shape[1] for name, weight in converted.items() if name.endswith(end)), None)


def metadata(converted: Mapping[str, Tensor], title: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the `ss_...` keys of sd-scripts and those of ModelSpec (`modelspec....`).

    Args:
        converted: from `to_kohya`.
        title: the model's name, as shown by A1111.
        settings: the training's flags, as far as they are known.
    """
    ranks = {len(value) for name, value in converted.items() if name.endswith("lora_down.weight")}
    alphas = {value.item() for name, value in converted.items() if name.endswith(".alpha")}
    module, version, architecture = _base(converted)
    known: dict[str, Any] = {
        "ss_network_module": module,
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
        "ss_output_name": title,
        "ss_base_model_version": version,
        "ss_v2": version and version == "sd_v2",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.date": datetime.datetime.now().isoformat(timespec="seconds"),
        "modelspec.architecture": architecture,
    }
    if settings:
        side = settings.get("resolution")
        known |= {
            "ss_sd_model_name": Path(str(settings.get("pretrained_model_name_or_path"))).name,  # never a private path
            "ss_resolution": side and f"({side}, {side})",
            "ss_learning_rate": settings.get("learning_rate"),
            "ss_seed": settings.get("seed"),
            "modelspec.resolution": side and f"{side}x{side}",
            "modelspec.trigger_phrase": settings.get("instance_prompt"),
        }
    return {key: readable(str(value)) for key, value in known.items() if value is not None}


def _base(converted: Mapping[str, Tensor]) -> tuple[str, str | None, str | None]:
    """Return sd-scripts' module and the base's names in sd-scripts and ModelSpec, as far as the weights tell."""
    for layer, (module, bases) in BASES.items():
        taken = channels(converted, layer)
        if taken is not None:
            return module, *bases.get(taken, (None, None))
    return "networks.lora", None, None
