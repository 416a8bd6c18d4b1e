"""FSDP on two CPU processes: equal to one process with twice the accumulation, and resumable."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from tests.forks import fork_ranks
from tests.parity.diffusers_cases import logged_losses
from tests.training.runs import ROOT, accelerate_launch, as_words, same_weights, train

SETTINGS = ("--mixed_precision", "no", "--main_process_port", "0")
SCRIPT = Path(__file__).with_name("fsdp_on_cpus.py")
LORA = "pytorch_lora_weights.safetensors"
UNET = "unet/diffusion_pytorch_model.safetensors"


def launch(flags, *switches):
    """Start two processes through `accelerate launch` with the project's config, on CPUs in float32."""
    accelerate_launch("fsdp.yaml", flags, *switches, script=SCRIPT, launcher=SETTINGS)


def fork(flags, *switches):
    """Start two forked processes in the environment that `launch` gives to its own."""
    config = str(ROOT / "configs/accelerate/fsdp.yaml")
    arguments = launch_command_parser().parse_args(["--config_file", config, *SETTINGS, str(SCRIPT)])
    environment = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    own = {name: value for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))}
    fork_ranks(2, run_script, [*switches, *as_words(flags)], **own)


def run_script(words):
    sys.argv = [str(SCRIPT), *words]
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.fixture
def seeded(flags):
    flags |= {"train_batch_size": 1, "gradient_accumulation_steps": 2, "adam_epsilon": 1e-4}
    flags |= {"background_prior_weight": 0.5, "class_prompt": "a dog", "checkpointing_steps": 2}
    return flags | {"validation_prompt": "a dog", "validation_steps": 3, "num_validation_images": 1}


def sharded(start, flags, weights, *switches):
    """Train in one process into `one` and with FSDP into `two`, and compare the results."""
    switches = (*switches, "--seed_each_batch", "--random_flip")
    assert train(flags, *switches, output_dir="one", gradient_accumulation_steps=4) == 0
    start(flags | {"output_dir": "two"}, *switches)
    assert Path("two/checkpoint-2/pytorch_model_fsdp.bin").exists()  # written by FSDP only
    assert logged_losses(Path("two")) == pytest.approx(logged_losses(Path("one")), abs=1e-5)
    single, double = load_file(f"one/{weights}"), load_file(f"two/{weights}")
    assert single.keys() == double.keys()
    for key in single:
        torch.testing.assert_close(single[key], double[key], rtol=0, atol=1e-5)


def test_sharded_training_equals_unsharded(seeded):
    sharded(launch, seeded, UNET)


def test_sharded_lora_equals_unsharded_and_is_resumed(seeded):
    sharded(fork, seeded, LORA, "--use_lora")
    shutil.copytree("two", "resumed", ignore=shutil.ignore_patterns("checkpoint-4", LORA, "validation"))
    again = seeded | {"output_dir": "resumed", "resume_from_checkpoint": "latest"}
    fork(again, "--use_lora", "--seed_each_batch", "--random_flip")
    assert same_weights(Path("two") / LORA, Path("resumed") / LORA)
    pictures = sorted(Path("two/validation").iterdir())
    assert [path.name for path in pictures] == ["step-000003-0.png", "step-000004-0.png"]
    assert all(path.read_bytes() == Path("resumed/validation", path.name).read_bytes() for path in pictures)
