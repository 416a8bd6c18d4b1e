"""A checkpoint that does not fit on the disk neither ends the run nor leaves files."""

import resource
import shutil
from pathlib import Path

import pytest
import torch

from persam_dreambooth.model_folder import LORA_NAME
from persam_dreambooth.torch_utils import TensorCache
from tests.training.runs import same_weights, train


def test_run_continues_and_last_checkpoint_is_kept(flags, file_limit, caplog):
    steps = {"checkpointing_steps": 1, "report_to": "none", "rank": 64}
    assert train(flags, "--use_lora", **steps, max_train_steps=3, output_dir="whole") == 0
    assert train(flags, "--use_lora", **steps, max_train_steps=1) == 0
    sizes = {path.name: path.stat().st_size for path in Path("output").rglob("*") if path.is_file()}
    optimizer = sizes.pop("optimizer.bin")
    assert max(sizes.values()) < optimizer  # everything else fits
    file_limit((max(sizes.values()) + optimizer) // 2)
    assert train(flags, "--use_lora", **steps, max_train_steps=3, resume_from_checkpoint="latest") == 0
    assert "checkpoint-2 could not be written" in caplog.text and "checkpoint-3 could not be written" in caplog.text
    assert "the last checkpoint is output/checkpoint-1" in caplog.text
    assert [path.name for path in Path("output").glob("*checkpoint*")] == ["checkpoint-1"]
    assert not list(Path("output").glob(".*"))
    name = "pytorch_lora_weights.safetensors"
    assert same_weights(Path("output") / name, Path("whole") / name)


@pytest.mark.parametrize("switches", [(), ("--use_lora", "--rank", "64")])
def test_model_that_does_not_fit_is_reported_and_saved_on_resume(flags, file_limit, capsys, switches):
    """Apart from checkpoints, the model saved last is the largest file."""
    flags |= {"report_to": "none", "max_train_steps": 1, "checkpointing_steps": 1}
    assert train(flags, *switches) == 0
    part, name = ("", LORA_NAME) if switches else ("unet", "diffusion_pytorch_model.safetensors")
    there = Path("output", part, name)
    shutil.move(there, "kept.safetensors")
    if part:
        shutil.rmtree(Path("output", part))
    file_limit(Path("kept.safetensors").stat().st_size // 2)
    assert train(flags, *switches, resume_from_checkpoint="latest") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "the model cannot be written" in line and "the last checkpoint is output/checkpoint-1" in line
    assert not there.exists() and not list(Path("output").glob(".*"))
    file_limit(resource.RLIM_INFINITY)
    assert train(flags, *switches, resume_from_checkpoint="latest") == 0
    assert same_weights(there, "kept.safetensors")


def test_cache_that_does_not_fit_is_reported_in_one_line(tmp_path, file_limit):
    file_limit(1000)
    with pytest.raises(OSError, match=r"cannot be written .* check the free space"):
        TensorCache(tmp_path).put("ab12", {"a": torch.zeros(10_000)})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
