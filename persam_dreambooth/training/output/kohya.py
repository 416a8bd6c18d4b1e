"""LoRA, LoHa and LoKr in the format of kohya's sd-scripts, for A1111's web UI, Forge and ComfyUI."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_kohya, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from torch import Tensor

from persam_dreambooth.adapter_files import clip_layer
from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.model_folder import KOHYA_NAME, LORA_NAME, adapter_folders, is_checkpoint, training_settings
from persam_dreambooth.photos.files import check_output_folder
from persam_dreambooth.text_files import is_text
from persam_dreambooth.torch_utils import save_beside
from persam_dreambooth.training.output import kohya_header, kohya_transformers, lycoris


def convert_lora(model: Path | str, output: Path | str | None = None) -> Path:
    """Write the adapters of a finished training as A1111, Forge, ComfyUI and sd-scripts read them.

    Args:
        model: the training's `output_dir`, or the `pytorch_lora_weights.safetensors` in it.
        output: a new .safetensors file; None is `pytorch_lora_weights_kohya.safetensors` beside the weights.

    Returns:
        The file.

    Raises:
        UserError: no LoRA, LoHa or LoKr there, the file exists, a checkpoint without `output`, or as `convert_file`.
    """
    given = Path(model)
    source = given / LORA_NAME if given.is_dir() and not adapter_folders(given) else given
    if not source.exists():
        raise UserError(f"{given} holds no {LORA_NAME}; give the --output_dir of a finished LoRA training")
    folder = source if source.is_dir() else source.parent
    if output is None and is_checkpoint(folder):
        raise UserError(f"{folder} is a checkpoint, which would not load with another file in it; give --output")
    target = folder / KOHYA_NAME if output is None else Path(output)
    if target.suffix != ".safetensors":
        raise UserError(f"--output {target} must end in .safetensors")
    check_output_folder(target.parent)
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} already exists; choose another --output, or delete it")
    title = folder.resolve().name if output is None else target.stem
    convert_file(source, target, title, training_settings(folder))
    return target


def convert_file(source: Path, target: Path, title: str, settings: Mapping[str, Any]) -> None:
    """Convert LoRA from diffusers' format, or LoHa and LoKr from peft's, to kohya's, with the metadata that is known.

    Args:
        source: `pytorch_lora_weights.safetensors`, as `load_lora_weights` takes it, or an output folder with
            `unet/adapter_model.safetensors`.
        target: the file to write.
        title: the model's name, as shown by A1111.
        settings: the training's flags, as far as they are known.

    Raises:
        UserError: a file cannot be read, has no such weights, or some that kohya's format cannot express.
        OSError: the target cannot be written.
    """
    for path in (source, target):
        if not is_text(str(path)):
            raise UserError(f"the path {path} has bytes that are not UTF-8, which safetensors cannot open; rename it")
    pipeline: str | None = None
    if source.is_dir():
        folders = {folder.name: folder for folder in adapter_folders(source)}
        configs = {part: lycoris.settings(folder) for part, folder in folders.items()}
        read = {part: _read(folder / SAFETENSORS_WEIGHTS_NAME) for part, folder in folders.items()}
        converted = lycoris.to_lycoris({part: state for part, (state, _) in read.items()}, configs)
        network = lycoris.network(next(iter(configs.values())))
        written = next(iter(read.values()))[1]
    else:
        state, written = _read(source)
        converted, pipeline = _renamed(state, _adapters(source, written), written.get(kohya_header.PIPELINE_KEY))
        network = kohya_header.network(converted, pipeline)
    save_beside(converted, target, kohya_header.metadata(converted, network, pipeline, title, settings, written))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights in a file and its metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            written = dict(file.metadata() or {})
    except FileNotFoundError as error:
        raise UserError(f"no weights at {path}; check the path") from error
    except Exception as error:  # each layer of the format raises its own exceptions for damage
        raise _unreadable(path, error) from error
    unfit = [key for key, value in state.items() if not (value.is_floating_point() and value.float().isfinite().all())]
    if unfit:
        raise UserError(f"{unfit[0]} in {path} holds values that are not finite; train again")
    return state, written


def _adapters(path: Path, written: Mapping[str, str]) -> dict[str, Any]:
    """Return diffusers' adapter metadata, such as `unet.lora_alpha`, from a file's header."""
    try:
        return dict(json.loads(written.get(LORA_ADAPTER_METADATA_KEY, "{}")))
    except (ValueError, TypeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = first_line(error).partition(";")[0]
    return UserError(f"{path} is not a readable safetensors file ({reason}); save it again")


PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
"""Parts that the format has names for; text encoders only if they are CLIP's."""
MAX_ALPHA = 1e6
"""Far above any rank."""
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def to_kohya(
    state: Mapping[str, Tensor], adapters: Mapping[str, Any] | None = None, pipeline: str | None = None
) -> dict[str, Tensor]:
    """Rename LoRA weights to kohya's names; the change of every base weight stays the same, to the bit.

    Args:
        state: diffusers' names, such as `unet.mid_block. ... .to_q.lora.down.weight`.
        adapters: diffusers' adapter metadata, such as `unet.lora_alpha`; without it each alpha is its rank.
        pipeline: diffusers' class of the base model's pipeline; None tells a transformer by the names of its layers.

    Returns:
        `lora_unet_..., lora_te_...` (with SDXL and transformers `lora_te1_...` and `lora_te2_...`), each with
        `.lora_down.weight` (r, in), `.lora_up.weight` (out, r) and `.alpha` (), float32. For UNets and text
        encoders these are the same tensors; for transformers see `kohya_transformers`.

    Raises:
        UserError: no LoRA weights, or some that kohya's format cannot hold.
    """
    return _renamed(state, adapters or {}, pipeline)[0]


def _renamed(
    state: Mapping[str, Tensor], adapters: Mapping[str, Any], pipeline: str | None
) -> tuple[dict[str, Tensor], str | None]:
    """Return the weights as `to_kohya` does, and the class of the pipeline, if it has a transformer or was given."""
    parts, converted = _by_part(state), dict[str, Tensor]()
    for part, weights in parts.items():
        _refuse_inexpressible(part, weights, adapters)
        pairs, alpha = _pairs(part, weights), adapters.get(f"{part}.lora_alpha")
        if part == "transformer":
            if pipeline not in kohya_transformers.ARCHITECTURES:
                pipeline = kohya_transformers.pipeline_of({name: down.shape[1] for name, (down, _) in pairs.items()})
            converted |= kohya_transformers.to_kohya(pairs, alpha, pipeline)
            continue
        names = convert_state_dict_to_kohya({f"{part}.{key}": value for key, value in weights.items()})
        for name, value in names.items():
            if name.endswith(".alpha"):  # diffusers' converter always writes the rank
                value = torch.tensor(float(value if alpha is None else alpha))
            converted[name] = value.contiguous()
    if parts.keys() & {"transformer", "text_encoder_2"} or kohya_header.channels(converted, "attn2_to_k") == 2048:
        return converted, pipeline
    return {name.replace("lora_te1_", "lora_te_", 1): value for name, value in converted.items()}, pipeline


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
        parts[part] = {clip_layer(name): value for name, value in weights.items()}
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
