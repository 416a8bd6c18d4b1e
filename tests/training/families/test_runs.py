"""Whole runs of every family through the command line, with all memory-saving options."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from persam_dreambooth.cli import main
from random_models import PIPELINES
from tests.parity.diffusers_cases import logged_losses
from tests.training.runs import launch, train

FAMILIES = [name for name in PIPELINES if name != "stable-diffusion"]
families = pytest.mark.parametrize("name", FAMILIES)
PRIOR = ("--class_prompt=a dog", "--background_prior_weight=1.0")
SMALL = ("--num_images", "1", "--num_inference_steps", "2", "--height", "32", "--width", "32")


def weights(folder):
    """Load the trained weights, full or LoRA."""
    file = (
        next(path for path in Path(folder).glob("pytorch_lora_weights.safetensors"))
        if "lora" in str(folder)
        else next(path for part in ("unet", "transformer") for path in (Path(folder) / part).glob("*.safetensors"))
    )
    return load_file(file)


@families
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_resume_equals_uninterrupted(flags, pipelines, name, kind):
    """Bit-identical with random crops, flips and the background prior, also if the other draws validation images.

    The result works with `generate`.
    """
    flags |= {"pretrained_model_name_or_path": pipelines / name, "train_batch_size": 1, "checkpointing_steps": 2}
    switches = ("--random_flip", *PRIOR, *(["--use_lora"] if kind == "lora" else []))
    whole, parts = f"whole-{kind}", f"parts-{kind}"
    drawn = {"validation_prompt": "a sks dog", "num_validation_images": 1, "validation_steps": 3}
    watched = (drawn, ["--skip_final_inference"]) if kind == "lora" else ({}, [])
    assert train(flags | watched[0], *switches, *watched[1], output_dir=whole, max_train_steps=4) == 0
    assert Path(whole, "validation/step-000003-0.png").exists() == (kind == "lora")
    assert train(flags, *switches, output_dir=parts, max_train_steps=2) == 0
    assert train(flags, *switches, output_dir=parts, max_train_steps=4, resume_from_checkpoint="latest") == 0
    expected, resumed = weights(whole), weights(parts)
    assert expected.keys() == resumed.keys() and all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert main(["generate", "--model", parts, "--prompt", "a sks dog", "--output", "drawn", *SMALL]) == 0
    assert len(list(Path("drawn").glob("*.png"))) >= 1


@families
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_memory_saving_options_change_little(flags, pipelines, name, kind):
    """Gradient checkpointing and precomputed prompts give the same losses; bf16 trains and generates too."""
    flags |= {"pretrained_model_name_or_path": pipelines / name, "max_train_steps": 2}
    switches = [*PRIOR, *(["--use_lora"] if kind == "lora" else [])]
    saving = ("--gradient_checkpointing", "--pre_compute_text_embeddings")
    assert train(flags, *switches, output_dir="plain") == 0
    assert train(flags, *switches, *saving, output_dir="saving") == 0
    assert logged_losses(Path("saving")) == pytest.approx(logged_losses(Path("plain")), rel=1e-4)
    AcceleratorState._reset_state(reset_partial_state=True)
    low = {"mixed_precision": "bf16", "validation_prompt": "a sks dog", "num_validation_images": 1}
    assert train(flags, *switches, *saving, **low, validation_steps=1, output_dir=f"low-{kind}") == 0
    assert len(list(Path(f"low-{kind}/validation").glob("*.png"))) == 2
    assert {value.dtype for value in weights(f"low-{kind}").values()} == {torch.float32}


@pytest.mark.parametrize("name", ["sdxl", "flux", "qwen-image"])
def test_missing_class_images_are_generated_by_base(flags, pipelines, name):
    flags |= {"pretrained_model_name_or_path": pipelines / name, "max_train_steps": 1, "num_class_images": 1}
    prior = {"class_prompt": "a dog", "class_data_dir": "class"}
    assert train(flags, "--use_lora", "--with_prior_preservation", **prior) == 0
    assert [path.name for path in Path("class").glob("[!.]*")] == ["class-00000.png"]


def test_two_processes_train_text_encoders_with_unused_last_layer(flags, pipelines):
    flags |= {"pretrained_model_name_or_path": pipelines / "sdxl", "train_batch_size": 1, "max_train_steps": 2}
    launch(2, flags, "--use_lora", "--train_text_encoder", *PRIOR)
    assert len(logged_losses(Path("output"))) == 2
