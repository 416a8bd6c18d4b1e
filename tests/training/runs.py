"""Run trainings: through the command line in this process, or through the script in other processes."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open

from persam_dreambooth.cli import main
from tests.forks import Fork, fork_ranks

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "train_dreambooth_persam.py"
NAMES = ("00", "01", "02")
UNNAMED = {"ss_output_name": "", "modelspec.title": ""}
"""Metadata of LoRA weights that has the output folder's name."""


class RunsCode:
    """A malicious object in a pickle: loading it creates the file `it-ran`."""

    def __reduce__(self):
        return (Path("it-ran").touch, ())


def as_words(flags):
    """Convert flags to command-line arguments, without those that are None."""
    return [word for key, value in flags.items() if value is not None for word in (f"--{key}", str(value))]


def train(flags, *switches, **more):
    return main(["train", *as_words(flags | more), *switches])


def fork(flags, *switches):
    """Start the script in a forked process."""
    return Fork(run_script, [*switches, *as_words(flags)])


def launch(processes, flags, *switches):
    """Run the script in N processes, as torchrun does."""
    return fork_ranks(processes, run_script, [*switches, *as_words(flags)])


def run_script(words):
    sys.argv = [str(SCRIPT), *words]
    runpy.run_path(str(SCRIPT), run_name="__main__")


def accelerate_launch(config, flags, *switches, script=SCRIPT, launcher=()):
    """Run a script by `accelerate launch` with a file of configs/accelerate/."""
    file = ["--config_file", str(ROOT / "configs/accelerate" / config)]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *file, *launcher]
    command = [*launch, str(script), *switches, *as_words(flags)]
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-6000:]
    return run


def same_weights(path, other_path, described=True):
    """Return whether two safetensors files are bit-identical, up to their metadata's order and the folders' names.

    With `described=False` only diffusers' own metadata are compared: a checkpoint has no others.
    """
    with safe_open(path, "pt") as first, safe_open(other_path, "pt") as second:
        metadata, other = ({**(file.metadata() or {}), **UNNAMED} for file in (first, second))
        if not described:
            own = ("format", "lora_adapter_metadata")
            metadata, other = ({key: known.get(key) for key in own} for known in (metadata, other))
        same_keys = set(first.keys()) == set(second.keys()) and metadata == other
        return same_keys and all(torch.equal(first.get_tensor(key), second.get_tensor(key)) for key in first.keys())  # noqa: SIM118
