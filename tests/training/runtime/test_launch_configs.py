"""Configs for `accelerate launch --config_file`; launch modes that could not save the weights are refused."""

import re
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime.distributed import check
from tests.training.runs import ROOT, accelerate_launch
from tests.training.small import make

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


DEEPSPEED, FSDP = DeepSpeedPlugin(zero_stage=2), {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"}


def test_launch_modes_that_would_lose_weights_are_refused(models):
    config, _ = make(models / "stable-diffusion")
    with pytest.raises(UserError, match="ZeRO-3 shards the weights"):
        check(config, deepspeed=DeepSpeedPlugin(zero_stage=3))
    check(config, deepspeed=DEEPSPEED)
    check(config, fsdp=FullyShardedDataParallelPlugin(**FSDP))
    check(config)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"fsdp_version": 1}, "fsdp_version: 2"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, "fsdp_state_dict_type: FULL_STATE_DICT"),
        ({"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading: false"),
    ],
)
def test_unsupported_fsdp_settings_are_refused(models, monkeypatch, setting, words):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "False")  # the settings change it
    config, _ = make(models / "stable-diffusion")
    plugin = FullyShardedDataParallelPlugin(**FSDP | setting)
    with pytest.raises(UserError, match=f"FSDP needs {words} in Accelerate's config file"):
        check(config, fsdp=plugin)


@pytest.mark.parametrize(
    ("changes", "flag", "both"),
    [
        ({"model": {"train_text_encoder": True}}, "train_text_encoder", True),
        ({"optimization": {"use_ema": True}}, "use_ema", True),
        ({"optimization": {"optimizer": "prodigy"}}, "optimizer prodigy", False),
    ],
)
def test_flags_incompatible_with_launch_mode_are_refused(models, changes, flag, both):
    config, _ = make(models / "stable-diffusion", **changes)
    with pytest.raises(UserError, match=f"--{flag} does not work with FSDP"):
        check(config, fsdp=FullyShardedDataParallelPlugin(**FSDP))
    if both:
        with pytest.raises(UserError, match=f"--{flag} does not work with DeepSpeed"):
            check(config, deepspeed=DEEPSPEED)
    check(config)
