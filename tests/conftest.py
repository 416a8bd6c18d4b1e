"""Setup shared by all tests: one thread (small models are slower with two), no network, small models on disk."""

import os

# Set before torch and huggingface_hub read them; child processes inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ.setdefault("MKL_CBWR", "AUTO")  # the package sets it too, but tests may import it after MKL has started

import resource
import signal
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from random_models import PIPELINES, save_models

ROOT = Path(__file__).parents[1]
SLOW = (
    # Trainings.
    "tests/evaluation/generation/test_checkpoints.py",
    "tests/evaluation/generation/test_class_leakage.py",
    "tests/evaluation/generation/test_revision.py",
    "tests/evaluation/generation/test_running.py",
    "tests/parity/test_diffusers_losses.py",
    "tests/review/test_runs.py",
    "tests/test_configs.py",
    "tests/test_examples.py",
    "tests/test_readme.py",
    "tests/test_reproducible.py",
    "tests/tinyworld/test_experiment.py",
    "tests/tinyworld/test_frontier.py",
    "tests/tinyworld/test_generation_report.py",
    "tests/tinyworld/test_tools.py",
    "tests/tinyworld/test_trained.py",
    "tests/training/data/test_caption_check.py",
    "tests/training/data/test_concepts.py::test_messages_name_subject",
    "tests/training/data/test_dataset_copy.py",
    "tests/training/data/test_regions.py",
    "tests/training/data/test_samples.py",
    "tests/training/families/test_lora.py",
    "tests/training/families/test_joint_attention.py",
    "tests/training/families/test_long_prompts.py",
    "tests/training/families/test_other_adapters.py",
    "tests/training/families/test_pipelines.py",
    "tests/training/families/test_runs.py",
    "tests/training/families/test_textual_inversion.py",
    "tests/training/output/test_lora_metadata.py",
    "tests/training/output/test_publishing.py",
    "tests/training/output/test_snippets.py",
    "tests/training/runtime/",
    "tests/training/test_background_prior.py",
    "tests/training/test_main.py",
    "tests/training/test_network_weights.py",
    "tests/training/test_newer_flags.py",
    "tests/training/test_objective_attention.py",
    "tests/training/test_revision.py",
    "tests/training/test_screen.py",
    "tests/training/test_single_file.py",
    "tests/training/test_training.py",
    # Kills and other processes.
    "tests/cli/test_phone_folder.py",
    "tests/evaluation/generation/test_killed.py",
    "tests/formats/test_killed.py",
    "tests/preprocessing/test_killed.py",
    "tests/preprocessing/test_processes.py",
    "tests/review/test_guard.py",
    "tests/review/test_page.py",
    "tests/review/test_server.py",
    "tests/review/test_stops.py",
    "tests/segmentation/test_standalone.py",
    # Videos, fits and large files.
    "tests/cli/test_benchmarks.py",
    "tests/evaluation/segmentation/test_ablation.py",
    "tests/evaluation/segmentation/test_presence.py",
    "tests/photos/test_manifest.py::test_memory_does_not_grow_with_number_of_lines",
    "tests/segmentation/test_mask_weights.py",
    "tests/segmentation/test_memory_video.py",
    "tests/segmentation/backbones/test_transformers_sam.py::test_persam_finds_masks",
    "tests/segmentation/test_multi_mask.py::test_twins",
    "tests/segmentation/test_presence.py",
    "tests/segmentation/test_video.py",
)
"""Prefixes of the tests that `make test-fast` skips; it also skips all tests that open a browser."""


def pytest_configure(config):
    """Keep xdist from starting the files with the most tests first: the longest have few."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config, items):
    """Mark slow tests by `SLOW`; with several workers run them first, so that none is left alone with a long file.

    Raises:
        UsageError: an entry names a file that is gone.
    """
    gone = [name for name in SLOW if not (ROOT / name.split("::")[0]).exists()]
    if gone:
        raise pytest.UsageError(f"SLOW in tests/conftest.py names {', '.join(gone)}; correct or remove it")
    for item in items:
        if item.nodeid.startswith(SLOW) or "browser" in item.fixturenames:
            item.add_marker("slow")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(SLOW))


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
