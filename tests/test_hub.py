"""Hub names without a network: refused at once, with the reason; what is cached or local is left alone."""

import time

import pytest
from huggingface_hub import constants

from persam_dreambooth import hub
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.models import Model, check_model
from persam_dreambooth.generation import load_pipeline

NAME = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_hub_that_cannot_be_reached_is_said_at_once(unreachable):
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"nothing is cached under that name, and the hub cannot be reached") as error:
        hub.check_available(NAME, "base model")
    assert time.monotonic() - begun < 5
    assert str(error.value).count(NAME) == 1 and "\n" not in str(error.value)


@pytest.mark.parametrize("ask", [load_pipeline, lambda name: check_model(Model("it", name), None)])
def test_a_model_to_draw_with_that_is_out_of_reach_is_said_at_once(ask, unreachable):
    begun = time.monotonic()
    with pytest.raises(UserError, match=f"no model at '{NAME}'.*the hub cannot be reached"):
        ask(NAME)
    assert time.monotonic() - begun < 5


def test_offline_mode_is_named(unreachable, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        hub.check_available(NAME, "SAM")


def test_what_is_cached_or_local_or_no_hub_name_asks_nobody(unreachable):
    file = unreachable / "models--me--dog/snapshots/0123/config.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    for name in ("me/dog", str(unreachable), "/no/such/folder", "./nothing"):
        hub.check_available(name, "base model")
