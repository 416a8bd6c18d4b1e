"""LoRA weights in the format of kohya's sd-scripts, which A1111's web UI and ComfyUI read."""

import datetime
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_kohya, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.replacing import replacing

PARTS = ("unet", "text_encoder", "text_encoder_2")
"""What the format has names for. Of transformers (SD3, Flux) diffusers has no converter into it."""
BASES = {
    # Channels of the prompt, as the UNet's cross attention takes it: sd-scripts' name of the base, ModelSpec's.
    768: ("sd_v1", "stable-diffusion-v1/lora"),
    1024: ("sd_v2", None),  # ModelSpec has two, which differ in what the base predicts
    2048: ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
}


def check_parts(parts: Collection[str]) -> None:
    """Refuse parts of a model that the format has no names for.

    Raises:
        UserError: which one, and what to use instead.
    """
    foreign = sorted(set(parts) - set(PARTS))
    if foreign:
        raise UserError(
            f"LoRA weights of a {foreign[0]} cannot be converted to kohya's format, only those of {', '.join(PARTS)} "
            "can; load the diffusers file as it is"
        )


def convert_file(source: Path, target: Path, title: str, settings: Mapping[str, Any]) -> None:
    """Write LoRA weights from diffusers' format in kohya's, with the metadata that is known to be true.

    Args:
        source: `pytorch_lora_weights.safetensors`, as `load_lora_weights` takes it.
        target: the file to write.
        title: the model's name, by which A1111 shows it.
        settings: the training's flags, as far as they are known.

    Raises:
        UserError: the file cannot be read, holds no LoRA weights, or some that would mean something else there.
    """
    try:
        with safe_open(source, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
            adapters = json.loads((file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}"))
    except FileNotFoundError as error:
        raise UserError(f"no LoRA weights at {source}; check the path") from error
    except Exception as error:  # damage has as many exceptions as the file has layers
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{source} is no readable safetensors file ({reason}); save it again") from error
    converted = to_kohya(state, adapters)
    with replacing(target) as temporary:
        save_file(converted, temporary, _metadata(converted, title, settings))


def to_kohya(state: Mapping[str, Tensor], adapters: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """LoRA weights under kohya's names: the same tensors, and beside each pair its alpha.

    Args:
        state: diffusers' names, such as `unet.mid_block. ... .to_q.lora.down.weight`.
        adapters: diffusers' adapter metadata, such as `unet.lora_alpha`; without it each alpha is its rank.

    Returns:
        `lora_unet_..., lora_te_...` (with a second text encoder `lora_te1_...` and `lora_te2_...`), each with
        `.lora_down.weight` (r, in), `.lora_up.weight` (out, r) and `.alpha` (), float32.

    Raises:
        UserError: no LoRA weights, or some that kohya's format cannot hold.
    """
    adapters, parts = adapters or {}, _by_part(state)
    converted: dict[str, Tensor] = {}
    for part, weights in parts.items():
        _refuse_inexpressible(part, weights, adapters)
        alpha = adapters.get(f"{part}.lora_alpha")
        names = convert_state_dict_to_kohya({f"{part}.{key}": value for key, value in weights.items()})
        for name, value in names.items():
            if name.endswith(".alpha"):  # diffusers' converter writes the rank, whatever alpha is
                value = torch.tensor(float(value if alpha is None else alpha))
            converted[name] = value.contiguous()
    if "text_encoder_2" in parts or _context_channels(converted) == 2048:
        return converted
    return {name.replace("lora_te1_", "lora_te_", 1): value for name, value in converted.items()}


def _by_part(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Part -> peft's names of its weights, those of text encoders beginning with `text_model`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    if not any("lora" in key for key in state):
        raise UserError("there are no LoRA weights in diffusers' format in this file; give what training saved")
    check_parts(parts)
    for part, weights in parts.items():
        if part == "unet":
            parts[part] = convert_unet_state_dict_to_peft(weights)
            continue
        if any("lora_linear_layer" in name for name in weights):
            weights = convert_state_dict_to_peft(weights)
        # transformers 5 has flattened CLIPTextModel; kohya's names are those from before.
        nested = ("text_model.", "text_projection.")
        parts[part] = {
            name if name.startswith(nested) else f"text_model.{name}": value for name, value in weights.items()
        }
    return parts


def _refuse_inexpressible(part: str, weights: Mapping[str, Tensor], adapters: Mapping[str, Any]) -> None:
    """Raise a UserError for weights that other programs would read as another model."""
    if any("lora_magnitude_vector" in name for name in weights):
        # diffusers drops kohya's dora_scale; others differ in its axis (KohakuBlueleaf/LyCORIS, issue 216).
        raise UserError(
            f"the {part}'s weights are DoRA's, on which readers of kohya's format do not agree; load the diffusers "
            "file as it is, or train without --use_dora"
        )
    other = [name for name in weights if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    uneven = [key for key in ("alpha_pattern", "rank_pattern", "use_rslora") if adapters.get(f"{part}.{key}")]
    if other or uneven:
        raise UserError(
            f"{part} has {(other + uneven)[0]}, for which kohya's format has no name; load the diffusers file as it is"
        )


def _context_channels(converted: Mapping[str, Tensor]) -> int | None:
    """Channels of the prompt that the UNet's cross attention takes, from the weights themselves."""
    return next((one.shape[1] for key, one in converted.items() if key.endswith("attn2_to_k.lora_down.weight")), None)


def _metadata(converted: Mapping[str, Tensor], title: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """What sd-scripts would have written and is known: `ss_...` keys and ModelSpec's (`modelspec....`)."""
    ranks = {len(value) for name, value in converted.items() if name.endswith("lora_down.weight")}
    alphas = {value.item() for name, value in converted.items() if name.endswith(".alpha")}
    known: dict[str, Any] = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
        "ss_output_name": title,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.date": datetime.datetime.now().isoformat(timespec="seconds"),
    }
    version, architecture = BASES.get(_context_channels(converted) or 0, (None, None))
    known |= {"ss_base_model_version": version, "ss_v2": version and version == "sd_v2"}
    known["modelspec.architecture"] = architecture
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
    return {key: str(value) for key, value in known.items() if value is not None}
