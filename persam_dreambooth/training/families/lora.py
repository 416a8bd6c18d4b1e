"""Adapters: LoRA's are added, disabled, saved and loaded in the same way as in diffusers' pipelines."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.training_utils import _collate_lora_metadata, _set_state_dict_into_text_encoder
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch import Tensor, nn

from persam_dreambooth import model_folder
from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.model_folder import LORA_NAME
from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families.loading import unwrapped


def add_adapters(module: Any, targets: list[str], config: ModelConfig) -> None:
    """Add adapters to the layers whose names end in one of `targets`."""
    module.add_adapter(_peft_config(targets, config))


def _peft_config(targets: list[str], config: ModelConfig) -> PeftConfig:
    rank = cast(int, config.rank)  # resolved by the config, since --use_lora is on
    alpha = rank if config.lora_alpha is None else config.lora_alpha
    if config.adapter_type == "loha":
        return LoHaConfig(r=rank, alpha=alpha, target_modules=targets)
    if config.adapter_type == "lokr":
        return LoKrConfig(r=rank, alpha=alpha, target_modules=targets)
    if config.adapter_type == "oft":
        return OFTConfig(r=rank, oft_block_size=0, target_modules=targets)
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        use_dora=config.use_dora,
        lora_dropout=config.lora_dropout or 0.0,
        init_lora_weights="gaussian",
        target_modules=targets,
    )


def layers(denoiser: nn.Module, own: list[str], config: ModelConfig) -> list[str]:
    """Return the layers to adapt, as ends of their names: `--lora_layers` or the family's `own`, in `--lora_blocks`.

    Raises:
        UserError: a layer or block that the denoiser does not have, or one that cannot be adapted.
    """
    kinds = {name: type(module) for name, module in denoiser.named_modules()}
    chosen = own if config.lora_layers is None else [end.strip() for end in config.lora_layers.split(",")]
    for end in chosen if config.lora_layers is not None else []:
        found = {kind for name, kind in kinds.items() if end and (name == end or name.endswith(f".{end}"))}
        if not found or not all(issubclass(kind, nn.Linear | nn.Conv2d) for kind in found):
            what = "no layer's name ends" if not found else "not only linear layers' and convolutions' names end"
            raise UserError(
                f"--lora_layers {config.lora_layers}: {what} in {end!r}; give others, such as {','.join(own)}"
            )
    if config.lora_blocks is None:
        return chosen
    blocks = [f"transformer_blocks.{number.strip()}" for number in config.lora_blocks.split(",")]
    for block in blocks:
        if block not in kinds:
            count = sum(name.startswith("transformer_blocks.") and name.count(".") == 1 for name in kinds)
            raise UserError(
                f"--lora_blocks {config.lora_blocks}: there is no block {block.partition('.')[2]!r}; give numbers "
                f"from 0 to {count - 1}, separated by commas"
            )
    return [f"{block}.{end}" for block in blocks for end in chosen]


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """Turn adapters, if there are any, and dropout off inside the block, so that the model is its base."""
    inner, modes = unwrapped(module), {layer: layer.training for layer in module.modules()}
    adapted = hasattr(inner, "peft_config")
    try:
        module.eval()
        if adapted:
            inner.disable_adapters()
        yield
    finally:
        if adapted:
            inner.enable_adapters()
        for layer, training in modes.items():
            layer.training = training


def save_adapters(
    pipeline_class: Any, parts: dict[str, nn.Module], folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write `pytorch_lora_weights.safetensors`, which the pipeline's `load_lora_weights` takes.

    Args:
        pipeline_class: its `save_lora_weights` writes the file.
        parts: the modules with adapters, by part name.
        folder: of the file.
        dtype: of the weights in it.
    """
    modules = {name: unwrapped(part) for name, part in parts.items()}
    states = {f"{name}_lora_layers": _state(name, part) for name, part in modules.items()}
    states = {part: {key: value.to(dtype) for key, value in state.items()} for part, state in states.items()}
    # Without the metadata, a reader assumes that alpha is the rank, which gives another model if it is not.
    metadata = _collate_lora_metadata(modules)
    for settings in metadata.values():
        settings["target_modules"] = sorted(settings["target_modules"])  # the order of a set differs between processes
    pipeline_class.save_lora_weights(folder, weight_name=LORA_NAME, **states, **metadata)


def _state(name: str, part: nn.Module) -> dict[str, Any]:
    """Return a part's adapters under the names of diffusers' scripts (for transformers, peft's own)."""
    state = get_peft_model_state_dict(part)
    return dict(state if name == "transformer" else convert_state_dict_to_diffusers(state))


def load_adapters(parts: dict[str, nn.Module], folder: Path) -> None:
    """Load what `save_adapters` wrote into modules that already have adapters."""
    _load(load_file(folder / LORA_NAME), parts)


def _load(state: dict[str, Tensor], parts: dict[str, nn.Module]) -> None:
    for name, part in parts.items():
        if name.startswith("text_encoder"):
            _set_state_dict_into_text_encoder(state, f"{name}.", unwrapped(part))
        else:
            prefix = f"{name}."
            own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            set_peft_model_state_dict(unwrapped(part), _peft_names(own), adapter_name="default")


def _peft_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a denoiser's weights under peft's names, which transformers' files have already.

    Converting these too would take the `to_out` of Flux.2's single blocks, a layer, for the list of layers that it is
    elsewhere, and its DoRA magnitudes would get lost.
    """
    return state if any(".lora_A." in key for key in state) else dict(convert_unet_state_dict_to_peft(state))


def begin_from(name: str, parts: dict[str, nn.Module]) -> None:
    """Load the weights of an existing LoRA into new adapters.

    A text encoder that the file does not adapt starts with fresh adapters, which change nothing yet.

    Args:
        name: file or folder, as in `--network_weights`.
        parts: the modules with adapters, by part name; the first one is the denoiser.

    Raises:
        UserError: it does not adapt the denoiser, or its parts, layers or sizes are not those that are trained.
    """
    said = f"--network_weights {name}"
    try:
        state = load_file(model_folder.lora_file(name))
    except Exception as error:  # safetensors and the system raise different exceptions for damage
        raise UserError(f"{said} cannot be read ({first_line(error)[:200]}); download or save it again") from error
    there = {key.partition(".")[0] for key in state}
    denoiser = next(iter(parts))
    if denoiser not in there:
        raise UserError(f"{said} holds no weights of a {denoiser}; give a LoRA of the same kind of base model")
    for part in sorted(there - set(parts)):
        advice = "add --train_text_encoder" if part.startswith("text_encoder") else "give another LoRA"
        raise UserError(f"{said} holds weights of a {part}, which is not trained here; {advice}")
    own = {part: module for part, module in parts.items() if part in there}
    for part, module in own.items():
        _check_layers(said, part, state, get_peft_model_state_dict(unwrapped(module), save_embedding_layers=False))
    _load(state, own)


def _check_layers(said: str, part: str, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Refuse weights whose layers or sizes differ from those of a part's adapters."""
    its = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
    if part.startswith("text_encoder"):
        its = convert_state_dict_to_peft(convert_state_dict_to_diffusers(its))
    else:
        its = _peft_names(its)
    its = {key.removeprefix("base_model.model."): value for key, value in its.items()}
    shapes, others = ({key: tuple(value.shape) for key, value in tensors.items()} for tensors in (its, wanted))
    for key in sorted({*shapes, *others}):
        if shapes.get(key) != others.get(key):
            raise UserError(
                f"{said} does not fit this base model's {part}: {key} is {shapes.get(key) or 'missing'} there and "
                f"{others.get(key) or 'not adapted'} here; give a LoRA of this trainer for the same kind of base model"
            )
