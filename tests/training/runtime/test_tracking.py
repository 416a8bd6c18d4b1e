"""A tracker that was asked for is there, or the run ends before any work; unset, tensorboard may be missing."""

import pytest
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime import tracking

INSTALLED = {tracker.value for tracker in get_available_trackers()}


@pytest.mark.parametrize("name", sorted(set(LOGGER_TYPE_TO_CLASS) - INSTALLED))
def test_every_tracker_that_is_not_installed_is_refused_in_one_line(name):
    with pytest.raises(UserError, match=f"--report_to {name}: {name} is not installed; pip install {name}, or"):
        tracking.log_with(name)


def test_what_is_installed_is_taken():
    assert tracking.log_with(None) == tracking.log_with("tensorboard") == ["tensorboard"]
    assert tracking.log_with("all") == "all" and tracking.log_with("none") is None


def test_without_tensorboard_a_run_that_did_not_ask_for_it_goes_on(monkeypatch, caplog):
    PartialState()  # which warnings ask whether this process speaks
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    assert tracking.log_with(None) is None
    assert "no curves are logged, since tensorboard is not installed (pip install tensorboard)" in caplog.text
    with pytest.raises(UserError, match="tensorboard is not installed"):
        tracking.log_with("tensorboard")
