"""Check that the files of a checkpoint are unchanged; Accelerate silently loads some that are not."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import load

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import PROGRESS_NAME as PROGRESS_NAME
from persam_dreambooth.photos.files import digest

COUNTS = ("step", "epoch", "batches")
DIGESTS = "sha256"


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a checkpoint except `progress.json`, by its relative path."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): digest(path) for path in paths if path.name != PROGRESS_NAME}


def digest_of_counts(values: dict[str, Any]) -> str:
    """Return the SHA-256 of the counts in `progress.json`."""
    return hashlib.sha256(json.dumps([values[name] for name in COUNTS]).encode()).hexdigest()


def read_progress(folder: Path) -> dict[str, Any]:
    """Read `progress.json`.

    Raises:
        ValueError: it is not valid, or its counts are impossible.
    """
    values = json.loads((folder / PROGRESS_NAME).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{PROGRESS_NAME} holds no counts")
    for name in COUNTS:
        value = values.get(name)
        if type(value) is not int or value < 0:
            raise ValueError(f"{PROGRESS_NAME} says {name} {str(value)[:40]!a}")
    if f"checkpoint-{values['step']}" != folder.name:
        raise ValueError(f"{PROGRESS_NAME} says step {values['step']}")
    if values["epoch"] > values["step"]:
        raise ValueError(f"{PROGRESS_NAME} says {values['epoch']} epochs for {values['step']} steps")
    return values


def check_files(folder: Path) -> None:
    """Compare a checkpoint's files with their digests; checkpoints of earlier versions have no digests and pass.

    Raises:
        ValueError: a file is missing, was changed or was added.
    """
    values = read_progress(folder)
    written = values.get(DIGESTS)
    if written is None:
        return
    found = digests(folder) | {PROGRESS_NAME: digest_of_counts(values)}
    if not isinstance(written, dict):
        raise ValueError(f"{PROGRESS_NAME} holds no digests")
    for name in sorted({*written, *found}):
        if name not in found:
            raise ValueError(f"{name} is missing")
        if written.get(name) != found[name]:
            raise ValueError(f"{name} was changed after it was written")


def read_random_states(folder: Path, rank: int) -> dict[str, Any]:
    """Read a process's random states, as data only: a pickle that would run code is refused.

    Raises:
        Exception: of various kinds, if the file is missing, cut or foreign.
    """
    states: dict[str, Any] = load(folder / f"random_states_{rank}.pkl", weights_only=True)
    return states


def check_random_states(states: dict[str, Any]) -> None:
    """Check that Accelerate has restored the random generators' states; it only logs if it has not.

    Raises:
        UserError: a generator was not restored; the message names the first.
    """
    numpy_state = np.random.get_state()  # noqa: NPY002 - the generator that Accelerate saves
    same = {
        "Python's": random.getstate() == states["random_state"],
        "NumPy's": all(np.array_equal(now, then) for now, then in zip(numpy_state, states["numpy_random_seed"])),  # noqa: B905
        "torch's": torch.equal(torch.get_rng_state(), states["torch_manual_seed"]),
    }
    if torch.cuda.is_available():
        now, then = torch.cuda.get_rng_state_all(), states.get("torch_cuda_manual_seed", [])
        # A run may be resumed on a different number of GPUs: their generators then start from the seed.
        same["the GPU's"] = len(now) != len(then) or all(map(torch.equal, now, then))
    for whose, holds in same.items():
        if not holds:
            raise UserError(f"{whose} random state could not be restored")
