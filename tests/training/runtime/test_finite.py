"""A non-finite loss, gradient or weight ends the run before anything is overwritten."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tests.training.runs import train


def test_nan_loss_names_step_and_photos(flags, models, capsys):
    pipeline = StableDiffusionPipeline.from_pretrained(models / "stable-diffusion")
    with torch.no_grad():
        pipeline.unet.conv_out.weight[0] = math.nan
    pipeline.save_pretrained("base")
    assert train(flags, "--use_lora", pretrained_model_name_or_path="base", gradient_accumulation_steps=2) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "the loss became nan in step 1 (photos: 00.png, 01.png, 02.png)" in line
    assert "there is no checkpoint yet" in line and "lower --learning_rate" in line
    assert not list(Path("output").glob("*.safetensors"))


def test_infinite_gradient_is_not_applied(flags, capsys):
    """With this weight the loss is finite, but the square of its gradient is not."""
    steps = {"max_train_steps": 3, "checkpointing_steps": 1, "train_batch_size": 1, "resume_from_checkpoint": "latest"}
    assert train(flags, "--use_lora", **steps | {"max_train_steps": 1}) == 0
    before = load_file("output/checkpoint-1/pytorch_lora_weights.safetensors")
    prior = {"class_prompt": "a dog", "background_prior_weight": 3e38}
    assert train(flags, "--use_lora", **steps, **prior) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert (
        "the gradient's norm became inf in step 2 (photos: 0" in line
        and "the last checkpoint is output/checkpoint-1" in line
    )
    after = load_file("output/checkpoint-1/pytorch_lora_weights.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [path.name for path in Path("output").glob("checkpoint-*")] == ["checkpoint-1"]


@pytest.mark.parametrize("checkpointing_steps", [1, 5])
def test_non_finite_weights_are_never_saved(flags, capsys, checkpointing_steps):
    """The decay exceeds float32's range: the first gradient is finite, the weights after it are not."""
    wild = {
        "learning_rate": 1.0,
        "adam_weight_decay": 1e39,
        "max_train_steps": 1,
        "checkpointing_steps": checkpointing_steps,
    }
    assert train(flags, **wild) == 2
    assert "the weights are no longer finite after step 1; there is no checkpoint yet" in capsys.readouterr().err
    assert not list(Path("output").glob("*checkpoint*")) and not Path("output/model_index.json").exists()
