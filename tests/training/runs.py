"""Whole runs: through the command line here, or through the script in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open

from persam_dreambooth.cli import main

ROOT = Path(__file__).parents[2]
NAMES = ("00", "01", "02")


def train(flags, *switches, **more):
    words = [word for key, value in (flags | more).items() if value is not None for word in (f"--{key}", str(value))]
    return main(["train", *words, *switches])


def launch(processes, flags, *switches):
    """Run the script itself on so many CPU processes; `accelerate launch --cpu` would start one only."""
    words = [word for key, value in flags.items() if value is not None for word in (f"--{key}", str(value))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*torchrun, str(ROOT / "train_dreambooth_persam.py"), *switches, *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def same_weights(one, other):
    """Whether two safetensors files hold the same, bit for bit; their metadata are written in any order."""
    with safe_open(one, "pt") as first, safe_open(other, "pt") as second:
        same_keys = set(first.keys()) == set(second.keys()) and first.metadata() == second.metadata()
        return same_keys and all(torch.equal(first.get_tensor(key), second.get_tensor(key)) for key in first.keys())  # noqa: SIM118
