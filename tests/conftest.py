"""Setup shared by all tests: one thread (small models are slower with two), no network, small models on disk."""

import os

# Set before torch and huggingface_hub read them; child processes inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ.setdefault("MKL_CBWR", "AUTO")  # the package sets it too, but here may be imported after MKL ran

import resource
import signal
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from random_models import PIPELINES, save_models


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Skip tests if ATEN_CPU_CAPABILITY hides the AVX512 that torch's bfloat16 attention needs besides AMX."""
    try:
        return (yield)
    except RuntimeError as error:
        if "pack_vnni2 is only supported when avx512" not in str(error):
            raise
        pytest.skip("torch has no bfloat16 attention under this ATEN_CPU_CAPABILITY on this processor")


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with small random models, `sam` and `stable-diffusion`."""
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
    """Lets a test limit the size of files in bytes, so that writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN  # Python's default: an OSError instead of termination
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Reset Accelerate after each test, since it keeps its state for the life of the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
