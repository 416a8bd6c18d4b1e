"""What all tests share: one thread (small models lose time to a second one), no network, small models on disk."""

import os

# Before torch and huggingface_hub read them; child processes inherit them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "true"

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from random_models import PIPELINES, save_models


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with `sam` and `stable-diffusion`, small and random."""
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return folder


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory) -> Path:
    """A folder with a small random pipeline of every family."""
    folder = tmp_path_factory.mktemp("pipelines")
    for name, draw in PIPELINES.items():
        draw().save_pretrained(folder / name)
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Each test is a process of its own to Accelerate, which keeps its state for the process's life."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
