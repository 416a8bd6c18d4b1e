"""Small random base models on disk, one of each family and prediction type, and the flags of a short run."""

import shutil

import numpy as np
import pytest
from accelerate import PartialState
from PIL import Image

from persam_dreambooth.training.runtime import validation
from random_models import random_stable_diffusion
from tests.parity.diffusers_cases import PHOTOS
from tests.training.runs import NAMES
from tests.training.small import KINDS, NAMED, is_refused


def pytest_collection_modifyitems(config, items):
    """Deselect combinations of family and settings that the family refuses; families/test_flags.py tests those."""
    kept, refused = [], []
    for item in items:
        (refused if _is_refused_combination(getattr(item, "callspec", None)) else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=refused)


def _is_refused_combination(callspec):
    params = callspec.params if callspec else {}
    base = params.get("base", params.get("name"))
    family = "stable-diffusion" if base in PREDICTIONS else base
    if not isinstance(family, str) or family not in NAMED:
        return False
    model = KINDS.get(params.get("kind"), {}) | params.get("model", {})
    return is_refused(family, model, params.get("mask"), params.get("optimization"))


@pytest.fixture(scope="package", autouse=True)
def few_inference_steps():
    """Draw validation pictures of runs in this process in 4 steps; the pictures of random models mean nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "INFERENCE_STEPS", 4)
        yield


PREDICTIONS = ("epsilon", "v_prediction")


@pytest.fixture(scope="module", params=[*PREDICTIONS, *(name for name in NAMED if name != "stable-diffusion")])
def base(request, pipelines, tmp_path_factory):
    if request.param == "epsilon":
        return pipelines / "stable-diffusion"
    if request.param != "v_prediction":
        return pipelines / request.param
    folder = tmp_path_factory.mktemp(request.param)
    random_stable_diffusion(prediction_type=request.param).save_pretrained(folder)
    return folder


@pytest.fixture
def process_state():
    """Set up Accelerate's process state, which loggers and warnings need."""
    PartialState()


@pytest.fixture(scope="session")
def photos_and_masks(tmp_path_factory):
    """A folder with small `photos`, `masks` of their middles, and the first photo's subject as `subject.png`."""
    folder = tmp_path_factory.mktemp("three")
    for kind in ("photos", "masks"):
        (folder / kind).mkdir()
    Image.open(PHOTOS / "00.png").resize((96, 96), Image.Resampling.NEAREST).save(folder / "subject.png")
    for name in NAMES:
        photo = Image.open(PHOTOS / f"{name}.jpg").reduce(4)
        photo.save(folder / f"photos/{name}.png")
        mask = np.zeros((photo.height, photo.width), dtype=np.uint8)
        mask[photo.height // 4 : -photo.height // 4, photo.width // 4 : -photo.width // 4] = 255
        Image.fromarray(mask).save(folder / f"masks/{name}.png")
    return folder


@pytest.fixture
def flags(models, photos_and_masks, tmp_path, monkeypatch):
    """Flags of a short run on three photos with masks; changes to a working folder with these and `subject.png`."""
    monkeypatch.chdir(tmp_path)
    for kind in ("photos", "masks"):
        shutil.copytree(photos_and_masks / kind, kind)
    shutil.copy(photos_and_masks / "subject.png", "subject.png")
    return {
        "pretrained_model_name_or_path": models / "stable-diffusion",
        "instance_data_dir": "photos",
        "instance_mask_dir": "masks",
        "instance_prompt": "a sks dog",
        "output_dir": "output",
        "resolution": 32,
        "train_batch_size": 2,
        "max_train_steps": 4,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 0,
        "seed": 0,
    }
