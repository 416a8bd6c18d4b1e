"""Launch modes: which settings would lose weights and are refused, and where the denoiser waits."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime.distributed import check, shares_weights, staging_device, whole
from tests.training.small import configure, make

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
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


class OnGpu:
    """The attributes of an accelerator that `staging_device` reads."""

    device, distributed_type = GPU, "MULTI_GPU"


@pytest.mark.parametrize(
    ("model", "device"),
    [
        ({}, GPU),
        ({"offload": True}, CPU),
        ({"offload": True, "bnb_quantization_config_path": "bnb.json"}, GPU),
    ],
)
def test_denoiser_waits_while_caches_are_filled(model, device):
    assert staging_device(OnGpu(), configure("base", {"use_lora": True} | model)) == device


@pytest.mark.parametrize("flag", ["quantize", "cache_background_prior"])
def test_flag_is_refused_where_it_does_not_work(flag):
    """A frozen base in 8 bits is not for either; the bank of draws is not for sharded weights only."""
    config = {
        "quantize": configure("base", {"use_lora": True, "quantize": "int8"}),
        "cache_background_prior": configure(
            "base",
            {"use_lora": True},
            {"cache_background_prior": 2, "background_prior_weight": 1.0},
            data={"cache_latents": True, "class_prompt": "a dog"},
        ),
    }[flag]
    with pytest.raises(UserError, match=f"--{flag} does not work with FSDP"):
        check(config, fsdp=FullyShardedDataParallelPlugin(**FSDP))
    if flag == "quantize":
        with pytest.raises(UserError, match="--quantize does not work with DeepSpeed"):
            check(config, deepspeed=DEEPSPEED)
    else:
        check(config, deepspeed=DEEPSPEED)


def test_single_process_has_the_whole_family_itself(models):
    config, family = make(models / "stable-diffusion")
    accelerator = Accelerator()
    assert not shares_weights(accelerator)
    assert whole(family, accelerator, config) is family
