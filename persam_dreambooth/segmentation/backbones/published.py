"""Original checkpoint files, as a model's authors publish them: read the tensors and rename the weights."""

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
"""(regular expression, replacement) pairs for the names of weights."""
SUFFIXES = (".pth", ".pt")
"""Suffixes of such files; anything else is a folder or a hub name."""


def check_published(path: Path, what: str = "SAM") -> None:
    """Raise a UserError if there is no such file, of a kind of model that messages call `what`."""
    if not path.is_file():
        raise UserError(f"no {what} checkpoint at {path}; give the path of a .pth file, a folder or a hub name")


def read_published(path: Path, what: str = "SAM") -> Any:
    """Read a file of tensors with `weights_only=True`, so that no code in it can run.

    A state dict stored under the key "model" is unwrapped.

    Args:
        path: the file.
        what: the kind of model expected, for messages.

    Returns:
        The content of the file: a state dict if it is a valid checkpoint, otherwise anything.

    Raises:
        UserError: no such file, it is damaged, or it holds more than tensors.
    """
    check_published(path, what)
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
    """Rename the weights of a state dict by applying all regular expressions to each name, in the given order."""
    names = {name: name for name in state}
    for pattern, replacement in rules:
        names = {old: re.sub(pattern, replacement, new) for old, new in names.items()}
    return {new: state[old] for old, new in names.items()}
