"""Checkpoint files of a model's authors: read their tensors, and rename their weights."""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from persam_dreambooth.errors import UserError, is_out_of_memory

State: TypeAlias = Mapping[str, Tensor]
"""A state dict."""
Rules: TypeAlias = Sequence[tuple[str, str]]
"""Regular expressions of weights' names, with what replaces them."""
SUFFIXES = (".pth", ".pt")
"""Of files that are read here and not as folders or hub names."""


def read_published(path: Path, what: str = "SAM") -> Any:
    """Read a file of tensors with `weights_only=True`, so that no code in it can run.

    A state dict that is stored under the key "model" is taken out.

    Args:
        path: the file.
        what: the kind of model expected, for messages.

    Returns:
        What the file holds: a state dict, if it is such a checkpoint.

    Raises:
        UserError: no such file, damaged, or more than tensors in it.
    """
    if not path.is_file():
        raise UserError(f"no {what} checkpoint at {path}; give the path of a .pth file, a folder or a hub name")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, or is not a PyTorch file, and was not loaded, because such a file can "
            f"run code; use the original {what} checkpoint (a plain state dict) or a transformers {what} folder"
        ) from error
    except Exception as error:  # torch's unpickler raises a dozen kinds of exception for damaged files
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path} is damaged or not a PyTorch checkpoint; download it again") from error
    inner = state.get("model") if isinstance(state, dict) else None
    return inner if isinstance(inner, dict) else state


def renamed(state: State, rules: Rules) -> dict[str, Tensor]:
    """Rename the weights of a state dict by regular expressions, all of them in the given order."""
    names = {name: name for name in state}
    for pattern, replacement in rules:
        names = {old: re.sub(pattern, replacement, new) for old, new in names.items()}
    return {new: state[old] for old, new in names.items()}
