"""`train` as a command: flags into settings, flags of other scripts, and what it says after a run."""

from pathlib import Path

import pytest

from persam_dreambooth.cli.train import read_config, say_where
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.flag_groups import REFUSED
from persam_dreambooth.training.main import TrainingResult

PATHS = ["--pretrained_model_name_or_path", "base", "--instance_data_dir", "dog", "--instance_mask_dir", "masks"]
GIVEN = [*PATHS, "--instance_prompt", "a sks dog"]


def test_flags_and_config_become_the_settings_of_a_run(tmp_path):
    (tmp_path / "run.yaml").write_text("use_lora: true\nrank: 8\n")
    config = read_config("train", [*GIVEN, "--config", str(tmp_path / "run.yaml"), "--rank", "2"])
    assert (config.model.use_lora, config.model.rank, config.data.instance_prompt) == (True, 2, "a sks dog")


def test_flags_of_other_scripts_are_refused_with_the_reason():
    for name, reason in REFUSED.items():
        with pytest.raises(UserError) as error:
            read_config("train", [*GIVEN, f"--{name}"])
        assert str(error.value) == f"--{name} is not supported: {reason}"


def result(**changes):
    return TrainingResult(**{"output_dir": Path("my model"), "model": [], "validation_images": [], "checkpoints": []}
                          | {"steps": 4, "losses": {}, "prompt": "a sks dog"} | changes)  # fmt: skip


def test_command_to_try_is_one_that_a_shell_reads(capsys, monkeypatch):
    config = read_config("train", GIVEN)
    say_where(config, result())
    assert capsys.readouterr().out.splitlines() == [
        "the model: my model",
        "try it: persam-dreambooth generate --model 'my model' --prompt 'a sks dog in the jungle'",
    ]
    say_where(config, result(best_checkpoint=Path("dog/checkpoint-2"), prompt=None))
    assert capsys.readouterr().out.splitlines() == [
        "the best checkpoint: dog/checkpoint-2",
        "try it: persam-dreambooth generate --model dog/checkpoint-2 --prompt 'a photo in the jungle'",
    ]
    say_where(read_config("train", [*GIVEN, "--dry_run"]), result())
    monkeypatch.setenv("RANK", "1")
    say_where(config, result())
    assert capsys.readouterr().out == ""
