"""Trackers: a requested one must be installed; the default, tensorboard, may be missing."""

import pytest
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime import tracking

INSTALLED = {tracker.value for tracker in get_available_trackers()}


@pytest.mark.parametrize("name", sorted(set(LOGGER_TYPE_TO_CLASS) - INSTALLED))
def test_missing_tracker_is_refused_in_one_line(name):
    with pytest.raises(UserError, match=f"--report_to {name}: {name} is not installed; pip install {name}, or"):
        tracking.log_with(name)


def test_installed_tracker_is_used():
    assert tracking.log_with(None) == tracking.log_with("tensorboard") == ["tensorboard"]
    assert tracking.log_with("all") == "all" and tracking.log_with("none") is None


def test_run_continues_without_default_tracker(monkeypatch, caplog):
    PartialState()  # warnings are logged by the main process only
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    assert tracking.log_with(None) is None
    assert "no curves are logged, since tensorboard is not installed (pip install tensorboard)" in caplog.text
    with pytest.raises(UserError, match="tensorboard is not installed"):
        tracking.log_with("tensorboard")
