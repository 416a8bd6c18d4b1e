"""Configs for `accelerate launch --config_file`; launch modes that could not save the weights are refused."""

import re
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType

from tests.training.runs import ROOT, accelerate_launch

FOLDER = ROOT / "configs" / "accelerate"
KINDS = {
    "cpu.yaml": DistributedType.NO,
    "single_gpu.yaml": DistributedType.NO,
    "multi_gpu.yaml": DistributedType.MULTI_GPU,
    "deepspeed_zero2.yaml": DistributedType.DEEPSPEED,
    "fsdp.yaml": DistributedType.FSDP,
}


def test_every_config_is_covered():
    assert sorted(KINDS) == sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_loads_config(name):
    config = load_config_from_file(str(FOLDER / name))  # an unknown key raises
    assert isinstance(config, ClusterConfig) and config.distributed_type == KINDS[name]
    assert config.use_cpu == (name == "cpu.yaml")
    assert config.mixed_precision == ("no" if name == "cpu.yaml" else "bf16")
    assert (config.num_processes > 1) == (KINDS[name] != DistributedType.NO)
    first = (FOLDER / name).read_text().splitlines()[0]
    assert first.startswith(f"# accelerate launch --config_file configs/accelerate/{name} ")


OWN = (
    *("masks are on: ", "look at them: ", "device: ", "training: ", "photos: ", "steps: ", "loss: ", "from the "),
    *("checkpoint: ", "validation: ", "trained ", "the model: ", "try it: "),
)
"""The beginnings of the lines that a training prints."""


def test_run_through_accelerate_launch_prints_its_own_lines_only(flags):
    flags |= {"max_train_steps": 2, "checkpointing_steps": 1, "class_prompt": "a dog", "class_data_dir": "class"}
    flags |= {"num_class_images": 1, "validation_prompt": "a sks dog", "num_validation_images": 1}
    run = accelerate_launch("cpu.yaml", flags, "--use_lora", "--with_prior_preservation")
    assert Path("output/pytorch_lora_weights.safetensors").exists()
    lines = [line for line in run.stdout.splitlines() if line.strip()]
    assert [line for line in lines if not line.startswith(OWN)] == [] and lines[-3].startswith("trained 2 steps")
    shown = [part.strip() for part in re.split("[\r\n]", run.stderr) if part.strip()]
    bars = ("Training:", "Class images:")
    assert [part for part in shown if not part.startswith(bars)] == [] and shown[-1].startswith("Training: 100%")
