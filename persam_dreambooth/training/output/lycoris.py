"""LoHa and LoKr of Stable Diffusion in LyCORIS's format, for A1111's web UI, Forge, ComfyUI and LyCORIS itself.

Layers are named as in kohya's format of LoRA, weights as in LyCORIS: `hada_w1_a` and so on, with which LoHa changes a
weight by (alpha / r) (w1_a w1_b) * (w2_a w2_b) elementwise (arXiv 2108.06098), and `lokr_w1` and so on, with which
LoKr changes it by their Kronecker product (arXiv 2309.14859).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, OFTConfig, PeftConfig
from torch import Tensor

from persam_dreambooth.adapter_files import PREFIX, clip_layer
from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import ADAPTER_CONFIG

FIRST_FACTORS = ("hada_w1_a", "lokr_w1", "lokr_w1_a")
"""The weights that are multiplied by alpha / rank, one in each layer."""
Config = LoHaConfig | LoKrConfig
"""peft's settings of the adapters that have such a format."""


def to_lycoris(parts: Mapping[str, Mapping[str, Tensor]], configs: Mapping[str, Config]) -> dict[str, Tensor]:
    """Rename LoHa's or LoKr's weights to LyCORIS's names.

    The file's alphas are the ranks, and alpha / rank is in the weights: the readers disagree on it where alpha is
    another number (LyCORIS applies it twice on merging, and to no LoKr of two full factors; peft to each once).

    Args:
        parts: peft's weights by part of the pipeline, such as `unet`.
        configs: from `settings`, by part.

    Returns:
        `lora_unet_..., lora_te_...` (SDXL: `lora_te1_...` and `lora_te2_...`), float32 `alpha`s among them.
    """
    converted: dict[str, Tensor] = {}
    for part, weights in parts.items():
        rank, alpha = float(configs[part].r), float(configs[part].alpha)
        for key, value in weights.items():
            layer, _, kind = key.removeprefix(PREFIX).rpartition(".")
            layer = layer if part == "unet" else clip_layer(layer)
            name = f"{_prefix(part, parts)}_{layer.replace('.', '_')}"
            converted[f"{name}.{kind}"] = value * (alpha / rank) if kind in FIRST_FACTORS and alpha != rank else value
            converted[f"{name}.alpha"] = torch.tensor(rank)
    return converted


def _prefix(part: str, parts: Mapping[str, Any]) -> str:
    if part == "unet":
        return "lora_unet"
    if "text_encoder_2" not in parts:
        return "lora_te"
    return "lora_te2" if part == "text_encoder_2" else "lora_te1"


def network(config: Config) -> dict[str, Any]:
    """Return the entries of sd-scripts' metadata about the size, and those that name LyCORIS's algorithm."""
    return {
        "ss_network_module": "lycoris.kohya",
        "ss_network_args": json.dumps({"algo": "loha" if isinstance(config, LoHaConfig) else "lokr"}),
        "ss_network_dim": config.r,
        "ss_network_alpha": float(config.r),
    }


def settings(folder: Path) -> Config:
    """Return the settings of the adapters in a folder, which is named after its part of the pipeline.

    Raises:
        UserError: they cannot be read, or other programs would misread such adapters.
    """
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{folder / ADAPTER_CONFIG} cannot be read ({type(error).__name__}); save it again") from error
    if isinstance(config, OFTConfig):
        raise UserError(
            "OFT in peft's form cannot be converted: it rotates a layer's inputs, while LyCORIS, sd-scripts and the "
            "programs that read their files rotate its outputs; load it with peft or persam-dreambooth generate"
        )
    if not isinstance(config, Config):
        raise UserError(
            f"the {folder.name}'s adapters are not LoHa or LoKr, so they cannot be converted; load them with peft"
        )
    if folder.name == "transformer":
        raise UserError(
            "a transformer's LoHa or LoKr cannot be converted: names that all programs read exist for Stable "
            "Diffusion 1, 2 and XL only; load it with peft or persam-dreambooth generate"
        )
    for name in ("rank_pattern", "alpha_pattern", "use_effective_conv2d"):
        if getattr(config, name):
            raise UserError(
                f"the {folder.name}'s adapters have {name}, so they cannot be converted; load them with peft"
            )
    return config
