"""Hub names without a network: refused immediately with the reason, unless cached or local."""

import time

import pytest
from huggingface_hub import constants

from persam_dreambooth import model_folder
from persam_dreambooth.errors import UserError
from persam_dreambooth.generation import load_pipeline
from persam_dreambooth.model_source import ModelSource

NAME = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_unreachable_hub_is_reported_immediately(unreachable):
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"nothing is cached under that name, and the hub cannot be reached") as error:
        model_folder.check_available(NAME, "base model")
    assert time.monotonic() - begun < 5
    assert str(error.value).count(NAME) == 1 and "\n" not in str(error.value)


@pytest.mark.parametrize("ask", [load_pipeline, lambda name: ModelSource(name).check()])
def test_unreachable_model_for_generation_is_reported_immediately(ask, unreachable):
    begun = time.monotonic()
    with pytest.raises(UserError, match=f"no model at '{NAME}'.*the hub cannot be reached"):
        ask(NAME)
    assert time.monotonic() - begun < 5


def test_offline_mode_is_named(unreachable, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        model_folder.check_available(NAME, "SAM")


def test_cached_local_and_invalid_names_make_no_request(unreachable):
    file = unreachable / "models--me--dog/snapshots/0123/config.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    for name in ("me/dog", str(unreachable), "/no/such/folder", "./nothing"):
        model_folder.check_available(name, "base model")
