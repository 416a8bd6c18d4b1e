"""Load pickled annotations of benchmarks without running code in them."""

import collections
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from persam_dreambooth.errors import UserError

# Types that annotations may contain besides plain values. With any other, a pickle could run code.
HARMLESS = {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("builtins", "dict"),
    ("builtins", "list"),
    ("builtins", "set"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # as numpy 1 wrote it
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it contains {module}.{name}")
        return super().find_class(module, name)


def read_annotations(path: Path) -> dict[Any, Any]:
    """Load the dictionary in a pickle file; only plain values, collections and numpy arrays are allowed.

    Raises:
        UserError: the file is missing, damaged, not a dictionary, or contains more than annotations.
    """
    stored = _load(path, lambda file: _Reader(file).load())
    if not isinstance(stored, dict):
        raise UserError(f"{path} holds a {type(stored).__name__}, not a dictionary of annotations; download it again")
    return collections.OrderedDict(stored)


def read_object_array(path: Path) -> NDArray[Any]:
    """Load a `.npy` file whose array holds objects, with the same types allowed as for `read_annotations`.

    `numpy.load` reads such a file with `allow_pickle=True` only, which could run code.

    Raises:
        UserError: the file is missing, damaged, an array of numbers, or contains more than annotations.
    """

    def load(file: BinaryIO) -> Any:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read(file)
        if not dtype.hasobject:
            raise ValueError(f"an array of {dtype}")
        return _Reader(file).load()

    stored = _load(path, load)
    if not isinstance(stored, np.ndarray):
        raise UserError(f"{path} holds a {type(stored).__name__}, not an array of annotations; download it again")
    return stored


def _load(path: Path, load: Callable[[BinaryIO], Any]) -> Any:
    try:
        with path.open("rb") as file:
            return load(file)
    except FileNotFoundError as error:
        raise UserError(f"no annotations at {path}; check the path") from error
    except Exception as error:  # pickle raises a dozen kinds of exception for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} is damaged or has more than annotations in it ({reason}); download it again"
        ) from error
