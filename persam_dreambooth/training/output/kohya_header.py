"""The header of LoRA weights in kohya's format: `ss_...` keys of sd-scripts, `modelspec....` keys of ModelSpec."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from persam_dreambooth.text_files import readable
from persam_dreambooth.training.output.kohya_transformers import ARCHITECTURES

PREFIXES = ("ss_", "modelspec.", "persam_")
"""Beginnings of the metadata's keys that are not diffusers' own."""
PIPELINE_KEY = "persam_pipeline"
"""diffusers' class of the base model's pipeline, by which the layers of transformers are told apart."""
UNETS: tuple[str, dict[int, tuple[str, str | None]]] = (
    "attn2_to_k",
    {
        768: ("sd_v1", "stable-diffusion-v1/lora"),
        1024: ("sd_v2", None),  # ModelSpec has two, for epsilon and v prediction
        2048: ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    },
)
BASES: dict[str, tuple[str, dict[int, tuple[str, str | None]]]] = {
    # By diffusers' class of the pipeline: the name of a layer; and by its input channels, the names of the base in
    # sd-scripts (for the newer models in musubi-tuner) and in ModelSpec.
    "StableDiffusionPipeline": UNETS,
    "StableDiffusionXLPipeline": UNETS,
    "FluxPipeline": ("linear1", {3072: ("flux1", "flux-1/lora")}),  # dev and schnell look alike
    # 3 and 3.5 medium look alike
    "StableDiffusion3Pipeline": ("x_block_attn_qkv", {2432: ("5-large", "stable-diffusion-3-5-large/lora")}),
    "Lumina2Pipeline": ("attention_qkv", {2304: ("lumina2", "lumina-2/lora")}),
    "Flux2Pipeline": ("linear1", {6144: ("flux_2_dev", "Flux.2-dev/lora")}),
    "Flux2KleinPipeline": (
        "linear1",
        {3072: ("flux_2_klein_4b", "Flux.2-klein-4b/lora"), 4096: ("flux_2_klein_9b", "Flux.2-klein-9b/lora")},
    ),
    "ZImagePipeline": ("attention_qkv", {3840: ("z_image", "Z-Image/lora")}),
    "QwenImagePipeline": ("attn_to_q", {3072: ("qwen_image", "Qwen-Image/lora")}),
    "Krea2Pipeline": ("attn_wq", {6144: ("krea2", "Krea-2/lora")}),
}


def channels(converted: Mapping[str, Tensor], layer: str) -> int | None:
    """Return the input channels of a layer of this name, from its weights; None if there is no such layer."""
    end = f"_{layer}.lora_down.weight"
    return next((weight.shape[1] for name, weight in converted.items() if name.endswith(end)), None)


def network(converted: Mapping[str, Tensor], pipeline: str | None) -> dict[str, Any]:
    """Return the entries about a LoRA's size, and the trainer's module for it (for UNets, that of sd-scripts).

    Args:
        converted: from `kohya.to_kohya`.
        pipeline: diffusers' class of the base model's pipeline, if it has a transformer.
    """
    architecture = ARCHITECTURES.get(pipeline or "")
    ranks = {len(value) for name, value in converted.items() if name.endswith("lora_down.weight")}
    alphas = {value.item() for name, value in converted.items() if name.endswith(".alpha")}
    return {
        "ss_network_module": architecture.module if architecture else "networks.lora",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
    }


def metadata(
    converted: Mapping[str, Tensor],
    network: Mapping[str, Any],
    pipeline: str | None,
    title: str,
    settings: Mapping[str, Any],
    written: Mapping[str, str],
) -> dict[str, str]:
    """Return the `ss_...` keys of sd-scripts and those of ModelSpec (`modelspec....`).

    Args:
        converted: the weights under kohya's names.
        network: from `network`, or from `lycoris.network`.
        pipeline: diffusers' class of the base model's pipeline; None is Stable Diffusion's.
        title: the model's name, as shown by A1111.
        settings: the training's flags, as far as they are known.
        written: the metadata of the converted file. What training wrote there (`lora_metadata.describe`) knows the
            base model better than the weights alone do.
    """
    layer, bases = BASES.get(pipeline or "", UNETS)
    version, architecture = bases.get(channels(converted, layer) or 0, (None, None))
    own: dict[str, Any] = {
        **network,
        "ss_output_name": title,
        "modelspec.title": title,
        "modelspec.date": datetime.datetime.now().isoformat(timespec="seconds"),
    }
    known: dict[str, Any] = {
        "ss_base_model_version": version,
        "ss_v2": version and version == "sd_v2",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "diffusers",
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
    known |= {key: value for key, value in written.items() if key.startswith(PREFIXES)} | own
    return {key: readable(str(value)) for key, value in known.items() if value is not None}
