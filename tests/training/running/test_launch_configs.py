"""The files for `accelerate launch --config_file`, by Accelerate's own classes; what cannot be saved is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.running.distribution import check
from tests.training.runs import ROOT
from tests.training.small import make

FOLDER = ROOT / "configs" / "accelerate"
KINDS = {
    "cpu.yaml": DistributedType.NO,
    "single_gpu.yaml": DistributedType.NO,
    "multi_gpu.yaml": DistributedType.MULTI_GPU,
    "deepspeed_zero2.yaml": DistributedType.DEEPSPEED,
}


def test_every_file_has_its_kind():
    assert sorted(KINDS) == sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_it(name):
    config = load_config_from_file(str(FOLDER / name))  # an unknown key raises
    assert isinstance(config, ClusterConfig) and config.distributed_type == KINDS[name]
    assert config.use_cpu == (name == "cpu.yaml")
    assert config.mixed_precision == ("no" if name == "cpu.yaml" else "bf16")
    assert (config.num_processes > 1) == (KINDS[name] != DistributedType.NO)
    first = (FOLDER / name).read_text().splitlines()[0]
    assert first.startswith(f"# accelerate launch --config_file configs/accelerate/{name} ")


def test_a_run_through_accelerate_launch(flags):
    flags |= {"max_train_steps": 1, "report_to": "none"}
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "cpu.yaml")]
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    command = [*launch, str(ROOT / "train_dreambooth_persam.py"), "--use_lora", *words]
    run = subprocess.run(command, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert Path("output/pytorch_lora_weights.safetensors").exists()


def test_sharded_weights_are_refused(models):
    config, _ = make(models / "stable-diffusion")
    with pytest.raises(UserError, match="FSDP spreads the weights"):
        check(DistributedType.FSDP, 0, config)
    with pytest.raises(UserError, match="ZeRO-3 spreads the weights"):
        check(DistributedType.DEEPSPEED, 3, config)
    check(DistributedType.DEEPSPEED, 2, config)
    check(DistributedType.MULTI_GPU, 0, config)


@pytest.mark.parametrize("changes", [{"model": {"train_text_encoder": True}}, {"optimization": {"use_ema": True}}])
def test_what_deepspeed_cannot_take_is_refused(models, changes):
    config, _ = make(models / "stable-diffusion", **changes)
    with pytest.raises(UserError, match="does not go with DeepSpeed"):
        check(DistributedType.DEEPSPEED, 2, config)
    check(DistributedType.MULTI_CPU, 0, config)
