"""The files of a checkpoint: digests of them all, possible counts, and random states that were restored."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime.checkpoint_files import (
    check_files,
    check_random_states,
    digest_of_counts,
    digests,
    read_progress,
    read_random_states,
)

COUNTS = {"step": 7, "epoch": 3, "batches": 2}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of two files with their digests."""
    folder = tmp_path / "checkpoint-7"
    (folder / "unet").mkdir(parents=True)
    for name in ("optimizer.bin", "unet/weights.bin"):
        (folder / name).write_text(name)
    write(folder, COUNTS | {"sha256": digests(folder) | {"progress.json": digest_of_counts(COUNTS)}})
    return folder


def write(folder, values):
    (folder / "progress.json").write_text(values if isinstance(values, str) else json.dumps(values))


def test_digests_are_of_all_files_but_the_progress(folder):
    assert sorted(digests(folder)) == ["optimizer.bin", "unet/weights.bin"]
    check_files(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "optimizer.bin").unlink(), "optimizer.bin is missing"),
        (lambda folder: (folder / "unet/weights.bin").write_text("x"), "unet/weights.bin was changed"),
        (lambda folder: (folder / "unet/more.bin").touch(), "unet/more.bin was changed"),
        (lambda folder: write(folder, read_progress(folder) | {"batches": 3}), "progress.json was changed"),
        (lambda folder: write(folder, COUNTS | {"sha256": []}), "holds no digests"),
    ],
)
def test_changed_files_are_named(folder, change, words):
    change(folder)
    with pytest.raises(ValueError, match=words):
        check_files(folder)


def test_checkpoint_of_an_earlier_version_has_no_digests(folder):
    write(folder, COUNTS)
    (folder / "optimizer.bin").unlink()
    check_files(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1], "holds no counts"),
        ({"step": 7, "epoch": 3}, "says batches 'None'"),
        (COUNTS | {"epoch": True}, "says epoch 'True'"),
        (COUNTS | {"batches": -1}, "says batches '-1'"),
        (COUNTS | {"step": 8}, "says step 8"),
        (COUNTS | {"epoch": 8}, "says 8 epochs for 7 steps"),
        (COUNTS | {"step": "x\u00fc" * 99}, r"says step '(x\\xfc){20}'$"),
        ("{", "Expecting property name"),
    ],
)
def test_impossible_counts_are_refused(folder, values, words):
    write(folder, values)
    with pytest.raises(ValueError, match=words):
        read_progress(folder)


def test_random_states_are_compared_with_those_that_were_saved(tmp_path):
    accelerator = Accelerator()
    accelerator.save_state(str(tmp_path))
    states = read_random_states(tmp_path, 0)
    check_random_states(states)
    draws = {"Python's": random.random, "NumPy's": np.random.random, "torch's": lambda: torch.rand(1)}
    for whose, draw in draws.items():
        draw()
        with pytest.raises(UserError, match=f"{whose} random state could not be restored"):
            check_random_states(states)
        accelerator.load_state(str(tmp_path))
        check_random_states(states)


class Program:
    """An object that creates a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("it-ran"),)


def test_random_states_that_would_run_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Program(), tmp_path / "random_states_0.pkl")
    with pytest.raises(Exception, match="Weights only load failed"):
        read_random_states(tmp_path, 0)
    assert not Path("it-ran").exists()
