"""Flags of output files: what could leak is refused, and the launcher's rank is checked."""

from pathlib import Path

import pytest

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import OutputConfig
from tests.training.runs import train

TOKEN = "hf_SECRETtoken"


def test_rank_on_the_machine_must_be_the_launchers(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert OutputConfig(local_rank=0).local_rank == 0 and OutputConfig().local_rank == -1
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert OutputConfig(local_rank=1).local_rank == 1 and OutputConfig().local_rank == -1
    with pytest.raises(UserError, match="--local_rank 0: the launcher's LOCAL_RANK says 1"):
        OutputConfig(local_rank=0)


@pytest.mark.parametrize(
    ("switches", "reason"),
    [
        (("--push_masks_to_hub",), "--push_masks_to_hub needs --push_to_hub"),
        ((f"--hub_token={TOKEN}", "--report_to=comet_ml"), "--hub_token could be kept by --report_to comet_ml"),
        ((f"--hub_token={TOKEN}", "--report_to=all"), "--hub_token could be kept by --report_to all"),
        ((f"--hub_tokn={TOKEN}",), "unknown argument --hub_tokn; did you mean --hub_token?"),
    ],
)
def test_uploads_that_would_leak_are_refused(flags, switches, reason, capsys):
    assert train(flags, *switches) == 2
    error = capsys.readouterr().err
    assert reason in error and TOKEN not in error and not Path("output").exists()


@pytest.mark.parametrize("report_to", [None, "tensorboard", "none"])
def test_a_token_is_taken_where_no_tracker_logs_it_and_never_shown(report_to):
    config = OutputConfig(hub_token=TOKEN, report_to=report_to)
    assert config.hub_token == TOKEN and TOKEN not in repr(config)
    assert OutputConfig(report_to="wandb").report_to == "wandb"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--checkpointing_steps", "0"], "--checkpointing_steps 0 must be at least 1"),
        (["--checkpoints_total_limit", "0"], "--checkpoints_total_limit 0 must be at least 1"),
        (["--local_rank", "-2"], "--local_rank -2 must lie in [-1, 2^31)"),
    ],
)
def test_values_outside_are_refused(words, said):
    with pytest.raises(UserError) as error:
        parse([OutputConfig], words, "train", "a training")
    assert said in str(error.value)
