"""A base model of a revision or variant: pictures, and the class pictures that leakage is measured against."""

import shutil

import pytest
import yaml
from huggingface_hub import constants
from PIL import Image

from persam_dreambooth.cli import main
from persam_dreambooth.model_folder import CONFIG_NAME, LORA_NAME, PROGRESS_NAME
from tests.evaluation.generation.conftest import argv, evaluate
from tests.hub_cache import cache_model
from tests.test_generation import save_lora

SMALL = {"num_images": 1, "class_images": 1, "dino_model": "none"}


@pytest.fixture
def run(generators, tmp_path, monkeypatch):
    """A LoRA trained on the revision `other` of the hub's `me/base`; the cache has no other branch."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cache_model(tmp_path / "hub", "me/base", {"other": generators / "other"})
    save_lora(generators / "other", tmp_path / "run")
    settings = {"pretrained_model_name_or_path": "me/base", "revision": "other"}
    settings |= {"instance_prompt": "a sks disc", "class_prompt": "a disc", "resolution": 32}
    (tmp_path / "run" / CONFIG_NAME).write_text(yaml.safe_dump(settings))
    return tmp_path / "run"


@pytest.fixture
def main_branch(generators, tmp_path, run):
    """Adds another model to the cache, as the main branch of `me/base`."""
    cache_model(tmp_path / "hub", "me/base", {"main": generators / "one"})


def pictures(report):
    """Return title -> the pixels of its pictures, then of its class's; that of a base model is "base"."""
    found = {}
    for folder in sorted((report / "models").iterdir()):
        files = [*sorted(folder.glob("pictures/*.png")), *sorted(folder.glob("class/pictures/*.png"))]
        found[folder.name.split("-")[0]] = [Image.open(file).tobytes() for file in files]
    return found


@pytest.mark.parametrize("others", [False, True])
def test_pictures_and_class_leakage_are_of_the_revision(others, run, options, generators, tmp_path, request):
    if others:
        request.getfixturevalue("main_branch")
    bases = {"config": None, "other": generators / "other", "one": generators / "one"}
    for name, base in bases.items():
        assert evaluate(options, **SMALL, model=run, base_model=base, output=tmp_path / name) == 0
    drawn = {name: pictures(tmp_path / name) for name in bases}
    assert list(drawn["config"]) == ["base", "run"] and all(map(all, drawn["config"].values()))
    assert drawn["config"] == drawn["other"]
    assert all(drawn["config"][title] != drawn["one"][title] for title in ("base", "run"))


def test_checkpoints_are_compared_with_the_base_of_the_revision(run, main_branch, options, generators, tmp_path):
    checkpoint = run / "checkpoint-1"
    checkpoint.mkdir()
    shutil.copy(run / LORA_NAME, checkpoint)
    (checkpoint / PROGRESS_NAME).write_text("{}")
    words = argv(options, **SMALL, run=run, model=None)
    words[1] = "checkpoints"
    assert main(words) == 0
    assert evaluate(options, **SMALL, model=f"base={generators / 'other'}", output=tmp_path / "whole") == 0
    assert pictures(tmp_path / "out")["base"] == pictures(tmp_path / "whole")["base"]
