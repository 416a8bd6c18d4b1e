"""Convert LoRA weights from diffusers' names to kohya's."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_kohya, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.output.kohya import transformers
from persam_dreambooth.training.output.kohya.metadata import channels

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
"""Parts that the format has names for; text encoders only if they are CLIP's."""
MAX_ALPHA = 1e6
"""Far above any rank."""
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def to_kohya(state: Mapping[str, Tensor], adapters: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Rename LoRA weights to kohya's names; the change of every base weight stays the same, to the bit.

    Args:
        state: diffusers' names, such as `unet.mid_block. ... .to_q.lora.down.weight`.
        adapters: diffusers' adapter metadata, such as `unet.lora_alpha`; without it each alpha is its rank.

    Returns:
        `lora_unet_..., lora_te_...` (with SDXL and transformers `lora_te1_...` and `lora_te2_...`), each with
        `.lora_down.weight` (r, in), `.lora_up.weight` (out, r) and `.alpha` (), float32. For UNets and text
        encoders these are the same tensors; for transformers see `transformers.to_kohya`.

    Raises:
        UserError: no LoRA weights, or some that kohya's format cannot hold.
    """
    adapters, parts = adapters or {}, _by_part(state)
    converted: dict[str, Tensor] = {}
    for part, weights in parts.items():
        _refuse_inexpressible(part, weights, adapters)
        pairs, alpha = _pairs(part, weights), adapters.get(f"{part}.lora_alpha")
        if part == "transformer":
            converted |= transformers.to_kohya(pairs, alpha)
            continue
        names = convert_state_dict_to_kohya({f"{part}.{key}": value for key, value in weights.items()})
        for name, value in names.items():
            if name.endswith(".alpha"):  # diffusers' converter always writes the rank
                value = torch.tensor(float(value if alpha is None else alpha))
            converted[name] = value.contiguous()
    if parts.keys() & {"transformer", "text_encoder_2"} or channels(converted, "attn2_to_k") == 2048:
        return converted
    return {name.replace("lora_te1_", "lora_te_", 1): value for name, value in converted.items()}


def _by_part(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group weights by part, under peft's names; those of text encoders begin with `text_model`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    if not any("lora" in key for key in state):
        raise UserError("there are no LoRA weights in diffusers' format in this file; give a file that training saved")
    foreign = sorted(parts.keys() - set(PARTS))
    if foreign:
        raise UserError(
            f"LoRA weights of a {foreign[0]} cannot be converted to kohya's format, only those of {', '.join(PARTS)} "
            "can; load the diffusers file as it is"
        )
    for part, weights in parts.items():
        if not part.startswith("text_encoder"):
            parts[part] = convert_unet_state_dict_to_peft(weights)
            continue
        if any("lora_linear_layer" in name for name in weights):
            weights = convert_state_dict_to_peft(weights)
        # transformers 5 flattened CLIPTextModel; kohya's names are the older ones.
        nested = ("text_model.", "text_projection.")
        parts[part] = {
            name if name.startswith(nested) else f"text_model.{name}": value for name, value in weights.items()
        }
    return parts


def _refuse_inexpressible(part: str, weights: Mapping[str, Tensor], adapters: Mapping[str, Any]) -> None:
    """Raise a UserError for weights that other programs would misread."""
    if any("lora_magnitude_vector" in name for name in weights):
        # diffusers drops dora_scale, sd-scripts ignores it, ComfyUI takes the norm over other rows than peft.
        raise UserError(
            f"the {part}'s weights are DoRA's, on which readers of kohya's format do not agree; load the diffusers "
            "file as it is, or train without --use_dora"
        )
    other = [name for name in weights if not name.endswith((DOWN, UP)) or "encoder.block." in name]  # T5's
    uneven = [key for key in ("alpha_pattern", "rank_pattern", "use_rslora") if adapters.get(f"{part}.{key}")]
    alpha = adapters.get(f"{part}.lora_alpha")
    if alpha is not None and not (isinstance(alpha, int | float) and abs(alpha) <= MAX_ALPHA):
        given = repr(alpha)[:40]
        raise UserError(
            f"the {part}'s lora_alpha in the file's metadata is {given}, not a usable number; save it again"
        )
    if other or uneven:
        raise UserError(
            f"{part} has {(other + uneven)[0]}, for which kohya's format has no name; load the diffusers file as it is"
        )


def _pairs(part: str, weights: Mapping[str, Tensor]) -> dict[str, transformers.Pair]:
    """Return each layer's down and up matrices."""
    pairs = {}
    for name in (key.removesuffix(DOWN).removesuffix(UP) for key in weights):
        down, up = weights.get(name + DOWN), weights.get(name + UP)
        dimensions = (2,) if part == "transformer" else (2, 4)  # UNets have convolutions
        if down is None or up is None or not down.ndim == up.ndim in dimensions or len(down) != up.shape[1]:
            shapes = [None if matrix is None else tuple(matrix.shape) for matrix in (down, up)]
            raise UserError(
                f"the LoRA weights of the {part}'s {name} are not a pair (down {shapes[0]}, up {shapes[1]}); the "
                "file is incomplete, save it again"
            )
        pairs[name] = (down, up)
    return pairs
