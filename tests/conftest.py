"""What all tests share: one thread (small models lose time to a second one), no network, small models on disk."""

import os

# Before torch and huggingface_hub read them; child processes inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ.setdefault("MKL_CBWR", "AUTO")  # the package does so too, and here it may be imported after MKL ran

import resource
import signal
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from random_models import PIPELINES, save_models


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Skip where ATEN_CPU_CAPABILITY hides the AVX512 that torch's own bfloat16 attention needs beside AMX."""
    try:
        return (yield)
    except RuntimeError as error:
        if "pack_vnni2 is only supported when avx512" not in str(error):
            raise
        pytest.skip("torch has no bfloat16 attention under this ATEN_CPU_CAPABILITY on this processor")


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


@pytest.fixture
def file_limit():
    """Lets a test forbid files beyond so many bytes, which fails writes as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN  # Python's own choice: an OSError instead of the end
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Each test is a process of its own to Accelerate, which keeps its state for the process's life."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
