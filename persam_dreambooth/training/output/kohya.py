"""LoRA weights in the format of kohya's sd-scripts, for A1111's web UI, Forge and ComfyUI: names and metadata."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_kohya, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from safetensors import safe_open
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import KOHYA_NAME, LORA_NAME, training_settings
from persam_dreambooth.photos.files import check_output_folder
from persam_dreambooth.text_files import is_text, readable
from persam_dreambooth.torch_utils import save_beside
from persam_dreambooth.training.output import kohya_transformers


def convert_lora(model: Path | str, output: Path | str | None = None) -> Path:
    """Write the LoRA weights of a finished training as A1111, Forge, ComfyUI and sd-scripts read them.

    Args:
        model: the training's `output_dir`, or the `pytorch_lora_weights.safetensors` in it.
        output: a new .safetensors file; None is `pytorch_lora_weights_kohya.safetensors` beside the weights.

    Returns:
        The file.

    Raises:
        UserError: no LoRA weights there, the file exists, or as `convert_file`.
    """
    given = Path(model)
    source = given / LORA_NAME if given.is_dir() else given
    if not source.is_file():
        raise UserError(f"{given} holds no {LORA_NAME}; give the --output_dir of a finished LoRA training")
    target = source.with_name(KOHYA_NAME) if output is None else Path(output)
    if target.suffix != ".safetensors":
        raise UserError(f"--output {target} must end in .safetensors")
    check_output_folder(target.parent)
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} already exists; choose another --output, or delete it")
    title = source.resolve().parent.name if output is None else target.stem
    convert_file(source, target, title, training_settings(source.parent))
    return target


def convert_file(source: Path, target: Path, title: str, settings: Mapping[str, Any]) -> None:
    """Convert LoRA weights from diffusers' format to kohya's, with the metadata that is known.

    Args:
        source: `pytorch_lora_weights.safetensors`, as `load_lora_weights` takes it.
        target: the file to write.
        title: the model's name, as shown by A1111.
        settings: the training's flags, as far as they are known.

    Raises:
        UserError: the file cannot be read, has no LoRA weights, or some that kohya's format cannot express.
        OSError: the target cannot be written.
    """
    for path in (source, target):
        if not is_text(str(path)):
            raise UserError(f"the path {path} has bytes that are not UTF-8, which safetensors cannot open; rename it")
    try:
        with safe_open(source, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            written = dict(file.metadata() or {})
            adapters = dict(json.loads(written.get(LORA_ADAPTER_METADATA_KEY, "{}")))
    except FileNotFoundError as error:
        raise UserError(f"no LoRA weights at {source}; check the path") from error
    except Exception as error:  # each layer of the format raises its own exceptions for damage
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(";")[0]
        raise UserError(f"{source} is not a readable safetensors file ({reason}); save it again") from error
    unfit = [key for key, value in state.items() if not (value.is_floating_point() and value.float().isfinite().all())]
    if unfit:
        raise UserError(f"{unfit[0]} in {source} holds values that are not finite; train again")
    converted = to_kohya(state, adapters)
    save_beside(converted, target, metadata(converted, title, settings, written))


PREFIXES = ("ss_", "modelspec.", "persam_")
"""Beginnings of the metadata's keys that are not diffusers' own."""
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
        encoders these are the same tensors; for transformers see `kohya_transformers`.

    Raises:
        UserError: no LoRA weights, or some that kohya's format cannot hold.
    """
    adapters, parts = adapters or {}, _by_part(state)
    converted: dict[str, Tensor] = {}
    for part, weights in parts.items():
        _refuse_inexpressible(part, weights, adapters)
        pairs, alpha = _pairs(part, weights), adapters.get(f"{part}.lora_alpha")
        if part == "transformer":
            converted |= kohya_transformers.to_kohya(pairs, alpha)
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


def _pairs(part: str, weights: Mapping[str, Tensor]) -> dict[str, kohya_transformers.Pair]:
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


def metadata(
    converted: Mapping[str, Tensor], title: str, settings: Mapping[str, Any], written: Mapping[str, str]
) -> dict[str, str]:
    """Return the `ss_...` keys of sd-scripts and those of ModelSpec (`modelspec....`).

    Args:
        converted: from `to_kohya`.
        title: the model's name, as shown by A1111.
        settings: the training's flags, as far as they are known.
        written: the metadata of diffusers' file. What training wrote there (`lora_metadata.describe`) knows the base
            model better than the weights alone do.
    """
    ranks = {len(value) for name, value in converted.items() if name.endswith("lora_down.weight")}
    alphas = {value.item() for name, value in converted.items() if name.endswith(".alpha")}
    module, version, architecture = _base(converted)
    own: dict[str, Any] = {
        "ss_network_module": module,
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
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


def _base(converted: Mapping[str, Tensor]) -> tuple[str, str | None, str | None]:
    """Return sd-scripts' module and the base's names in sd-scripts and ModelSpec, as far as the weights tell."""
    for layer, (module, bases) in BASES.items():
        taken = channels(converted, layer)
        if taken is not None:
            return module, *bases.get(taken, (None, None))
    return "networks.lora", None, None
