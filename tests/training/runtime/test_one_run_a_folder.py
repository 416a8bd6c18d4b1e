"""An output folder holds one run: concurrent runs, foreign checkpoints and base models, resuming past checkpoints."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime import resuming
from tests.training.runs import train
from tests.training.small import configure


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


def test_concurrent_run_is_refused(flags, capsys):
    flags |= {"report_to": "none", "checkpointing_steps": 1, "max_train_steps": 1}
    assert train(flags, "--use_lora") == 0
    (Path("output") / ".checkpoint-2.partial").mkdir()  # being written by the first run
    before = files_of("output")
    with FileLock("output/.training.lock"):
        assert train(flags, "--use_lora", max_train_steps=2, resume_from_checkpoint="latest") == 2
        assert "another run is using --output_dir output" in capsys.readouterr().err
    Path("output/.training.lock").unlink()
    assert files_of("output") == before
    assert train(flags, "--use_lora", max_train_steps=2, resume_from_checkpoint="latest") == 0
    assert not list(Path("output").glob(".*"))


def test_run_that_finished_meanwhile_is_noticed(tmp_path):
    """Both runs found the folder empty; the other was faster and has finished."""
    config = configure("model", output={"output_dir": str(tmp_path)})
    start = resuming.choose_start(config)
    config.save(tmp_path)
    with pytest.raises(UserError, match="another run has written into"), resuming.alone(config, start):
        pass


def test_class_images_may_be_in_output_folder(flags):
    flags |= {"class_prompt": "a dog", "class_data_dir": "output/class", "num_class_images": 1, "report_to": "none"}
    assert train(flags, "--use_lora", "--with_prior_preservation", max_train_steps=1) == 0


def test_resuming_from_before_later_checkpoints(flags, capsys):
    """The limit keeps the highest step numbers, so lower new ones would be deleted at once."""
    flags |= {"report_to": "none", "checkpointing_steps": 1, "max_train_steps": 3}
    assert train(flags, "--use_lora") == 0
    back = {"resume_from_checkpoint": "checkpoint-1", "max_train_steps": 2, "checkpoints_total_limit": 1}
    assert train(flags, "--use_lora", **back) == 2
    assert "later checkpoints (checkpoint-2, checkpoint-3)" in capsys.readouterr().err
    for step in (2, 3):
        shutil.rmtree(f"output/checkpoint-{step}")
    assert train(flags, "--use_lora", **back) == 0
    assert [path.name for path in Path("output").glob("checkpoint-*")] == ["checkpoint-2"]


def test_foreign_checkpoint_or_base_is_refused(flags, models, capsys):
    flags |= {"report_to": "none", "checkpointing_steps": 1, "max_train_steps": 1}
    assert train(flags, "--use_lora") == 0
    shutil.copytree("output", "other")
    flags["max_train_steps"] = 2
    assert train(flags, "--use_lora", resume_from_checkpoint="other/checkpoint-1") == 2
    assert "other/checkpoint-1: no such checkpoint in output" in capsys.readouterr().err
    shutil.copytree(models / "stable-diffusion", "another")
    elsewhere = {"pretrained_model_name_or_path": "another", "resume_from_checkpoint": "latest"}
    assert train(flags, "--use_lora", **elsewhere) == 2
    assert "the run had pretrained_model_name_or_path" in capsys.readouterr().err
    Path("another").rename("stable-diffusion")  # the same model, moved
    moved = elsewhere | {"pretrained_model_name_or_path": "stable-diffusion"}
    assert train(flags, "--use_lora", **moved | {"resume_from_checkpoint": "output/checkpoint-1"}) == 0
