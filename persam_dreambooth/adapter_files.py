"""Adapters other than LoRA (LoHa, LoKr, OFT) in peft's own files, a folder for each adapted part of a pipeline."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file

PREFIX = "base_model.model."
"""Prefix of the keys in peft's files: its name for the model inside a `PeftModel`."""


def save(module: Any, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, as `PeftModel.from_pretrained` reads them.

    Args:
        module: a model of diffusers or transformers with one adapter.
        folder: is created.
        dtype: of the weights in the file.
    """
    folder.mkdir()
    config = copy.copy(module.peft_config["default"])
    config.inference_mode, config.target_modules = True, sorted(config.target_modules)  # a set's order is random
    config.save_pretrained(folder)
    weights = get_peft_model_state_dict(module, save_embedding_layers=False)
    weights = {f"{PREFIX}{key}": value.to(dtype).contiguous() for key, value in weights.items()}
    save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})


def load(module: Any, folder: Path) -> None:
    """Load weights from a folder that `save` wrote into a model that already has such adapters.

    Raises:
        ValueError: weights are missing or unknown.
    """
    weights = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    own = get_peft_model_state_dict(module, save_embedding_layers=False)
    different = {key.removeprefix(PREFIX) for key in weights} ^ set(own)
    if different:
        raise ValueError(f"{folder.name}'s adapters do not fit: {min(different)}")
    set_peft_model_state_dict(module, weights)


def attach(module: Any, folder: Path) -> None:
    """Add the adapters of a folder to a model without any; errors as `load`."""
    module.add_adapter(PeftConfig.from_pretrained(str(folder)))
    load(module, folder)
