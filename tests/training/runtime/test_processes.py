"""With `--seed_each_batch`, neither the number of processes nor interruptions change the result (real processes)."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.parity.diffusers_cases import logged_losses
from tests.training.runs import launch, same_weights, train

LORA = "pytorch_lora_weights.safetensors"
PRIOR = {"class_prompt": "a dog", "class_data_dir": "class", "num_class_images": 2, "background_prior_weight": 0.5}


@pytest.fixture
def seeded(flags):
    """Three photos, one per batch, so that epochs end within a step; the learning rate is warmed up and scaled."""
    shutil.copytree("photos", "class")
    flags = {key: str(value) for key, value in flags.items()} | PRIOR
    flags |= {"train_batch_size": 1, "max_train_steps": 4, "lr_scheduler": "linear", "lr_warmup_steps": 2}
    return flags | {"adam_epsilon": 1e-4}  # for near-zero gradients Adam amplifies rounding errors


@pytest.mark.parametrize(
    ("switches", "weights"),
    [
        (("--use_lora", "--train_text_encoder", "--random_flip", "--lora_dropout=0.1"), LORA),
        (("--offset_noise",), "unet/diffusion_pytorch_model.safetensors"),
    ],
    ids=["lora", "full"],
)
def test_two_processes_equal_one_with_twice_accumulation(seeded, switches, weights):
    switches = (*switches, "--seed_each_batch", "--with_prior_preservation", "--scale_lr")
    assert train(seeded, *switches, output_dir="one", gradient_accumulation_steps=4) == 0
    launch(2, seeded | {"output_dir": "two", "gradient_accumulation_steps": 2}, *switches)
    assert logged_losses(Path("two")) == pytest.approx(logged_losses(Path("one")), abs=1e-5)
    single, double = load_file(f"one/{weights}"), load_file(f"two/{weights}")
    code = train(seeded, *switches, output_dir="none", gradient_accumulation_steps=4, learning_rate=0)
    assert code == 0
    untrained = load_file(f"none/{weights}")
    assert max((single[key] - untrained[key]).abs().max() for key in single) > 1e-3
    for key in single:
        torch.testing.assert_close(single[key], double[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
def test_resume_equals_uninterrupted(seeded, workers):
    switches = ("--use_lora", "--seed_each_batch", "--random_flip", "--with_prior_preservation")
    seeded |= {"lora_dropout": 0.1, "gradient_accumulation_steps": 2, "dataloader_num_workers": workers}
    seeded |= {"checkpointing_steps": 2, "lr_scheduler": "constant"}
    assert train(seeded, *switches, output_dir="whole") == 0
    assert train(seeded, *switches, max_train_steps=2) == 0
    assert train(seeded, *switches, resume_from_checkpoint="latest", max_train_steps=4) == 0
    assert same_weights(Path("whole") / LORA, Path("output") / LORA)
