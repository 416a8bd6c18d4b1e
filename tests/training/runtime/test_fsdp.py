"""FSDP on two CPU processes: equal to one process with twice the accumulation, and resumable."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.parity.diffusers_cases import logged_losses
from tests.training.runs import accelerate_launch, same_weights, train

LORA = "pytorch_lora_weights.safetensors"
UNET = "unet/diffusion_pytorch_model.safetensors"


def launch(flags, *switches):
    """Start two processes through `accelerate launch` with the project's config, on CPUs in float32."""
    settings = ("--mixed_precision", "no", "--main_process_port", "0")
    script = Path(__file__).with_name("fsdp_on_cpus.py")
    accelerate_launch("fsdp.yaml", flags, *switches, script=script, launcher=settings)


@pytest.fixture
def seeded(flags):
    flags |= {"train_batch_size": 1, "gradient_accumulation_steps": 2, "adam_epsilon": 1e-4}
    flags |= {"background_prior_weight": 0.5, "class_prompt": "a dog", "checkpointing_steps": 2}
    return flags | {"validation_prompt": "a dog", "validation_steps": 3, "num_validation_images": 1}


def sharded(flags, weights, *switches):
    """Train in one process into `one` and with FSDP into `two`, and compare the results."""
    switches = (*switches, "--seed_each_batch", "--random_flip")
    assert train(flags, *switches, output_dir="one", gradient_accumulation_steps=4) == 0
    launch(flags | {"output_dir": "two"}, *switches)
    assert Path("two/checkpoint-2/pytorch_model_fsdp.bin").exists()  # written by FSDP only
    assert logged_losses(Path("two")) == pytest.approx(logged_losses(Path("one")), abs=1e-5)
    single, double = load_file(f"one/{weights}"), load_file(f"two/{weights}")
    assert single.keys() == double.keys()
    for key in single:
        torch.testing.assert_close(single[key], double[key], rtol=0, atol=1e-5)


def test_sharded_training_equals_unsharded(seeded):
    sharded(seeded, UNET)


def test_sharded_lora_equals_unsharded_and_is_resumed(seeded):
    sharded(seeded, LORA, "--use_lora")
    shutil.copytree("two", "resumed", ignore=shutil.ignore_patterns("checkpoint-4", LORA, "validation"))
    again = seeded | {"output_dir": "resumed", "resume_from_checkpoint": "latest"}
    launch(again, "--use_lora", "--seed_each_batch", "--random_flip")
    assert same_weights(Path("two") / LORA, Path("resumed") / LORA)
    pictures = sorted(Path("two/validation").iterdir())
    assert [path.name for path in pictures] == ["step-000003-0.png", "step-000004-0.png"]
    assert all(path.read_bytes() == Path("resumed/validation", path.name).read_bytes() for path in pictures)
