"""A resumed run equals an uninterrupted one bit for bit, including random crops."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.runs import train


@pytest.mark.parametrize(("workers", "resume_at"), [(0, 1), (0, 3), (1, 4)])
def test_resume_equals_uninterrupted_with_random_crops(flags, workers, resume_at):
    whole = {"max_train_steps": 5, "checkpointing_steps": resume_at, "dataloader_num_workers": workers}
    whole |= {"train_batch_size": 1, "lora_dropout": 0.1}
    switches = ("--use_lora", "--random_flip")
    assert train(flags, *switches, output_dir="whole", **whole) == 0
    assert train(flags, *switches, **whole | {"max_train_steps": resume_at}) == 0
    assert train(flags, *switches, resume_from_checkpoint="latest", **whole) == 0
    name = "pytorch_lora_weights.safetensors"
    expected, resumed = load_file(Path("whole") / name), load_file(Path("output") / name)
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
