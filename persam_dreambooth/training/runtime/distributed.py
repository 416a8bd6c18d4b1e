"""Distributed training: DDP, DeepSpeed ZeRO (sharded optimizer state) and FSDP (sharded weights)."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin, broadcast
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import StateDictType

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.families import Family, load_family

INSTEAD = "launch with configs/accelerate/multi_gpu.yaml"


def check(
    config: TrainingConfig,
    deepspeed: DeepSpeedPlugin | None = None,
    fsdp: FullyShardedDataParallelPlugin | None = None,
) -> None:
    """Refuse settings that would train or save wrong weights.

    Args:
        config: the training's flags.
        deepspeed: Accelerate's settings, if launched with DeepSpeed.
        fsdp: Accelerate's settings, if launched with FSDP.

    Raises:
        UserError: settings or flags that do not work with them.
    """
    flags = {
        "train_text_encoder": config.model.train_text_encoder,
        "train_text_encoder_ti": config.model.train_text_encoder_ti,
        "use_ema": config.optimization.use_ema,
        "quantize": config.model.quantize is not None,
        "bnb_quantization_config_path": config.model.bnb_quantization_config_path is not None,
        "do_fp8_training": config.model.do_fp8_training,
        "layerwise_upcasting_storage_dtype": config.model.layerwise_upcasting_storage_dtype is not None,
    }
    if deepspeed is not None:
        if deepspeed.zero_stage == 3:
            raise UserError(
                "DeepSpeed ZeRO-3 shards the weights and returns them in 16 bits only; launch "
                "with configs/accelerate/deepspeed_zero2.yaml or fsdp.yaml"
            )
        _refuse(flags, "DeepSpeed, which takes one model and keeps its weights in low precision")
    if fsdp is not None:
        _check_fsdp(fsdp)
        other = config.optimization.optimizer
        flags |= {
            f"optimizer {other}": other != "adamw",
            "cache_background_prior": config.mask.cache_background_prior is not None,
        }
        _refuse(flags, "FSDP, which shards one model's weights for AdamW")


def _refuse(flags: dict[str, bool], what: str) -> None:
    for flag, given in flags.items():
        if given:
            raise UserError(f"--{flag} does not work with {what}; drop it, or {INSTEAD}")


def _check_fsdp(plugin: FullyShardedDataParallelPlugin) -> None:
    needed = {
        "fsdp_version: 2": plugin.fsdp_version == 2,
        # The other kind of checkpoint has an index that is a pickle, which may run code.
        "fsdp_state_dict_type: FULL_STATE_DICT": plugin.state_dict_type == StateDictType.FULL_STATE_DICT,
        # With it, all processes but the first would load empty text encoders.
        "fsdp_cpu_ram_efficient_loading: false": not plugin.cpu_ram_efficient_loading,
    }
    missing = [setting for setting, there in needed.items() if not there]
    if missing:
        raise UserError(
            f"FSDP needs {missing[0]} in Accelerate's config file; launch with configs/accelerate/fsdp.yaml, or set it"
        )


def shares_weights(accelerator: Accelerator) -> bool:
    """Whether the weights are sharded (FSDP), so that no process has all of them."""
    return accelerator.distributed_type == DistributedType.FSDP


def staging_device(accelerator: Accelerator, config: TrainingConfig) -> torch.device:
    """Return the denoiser's device before `accelerator.prepare`.

    It is the CPU with FSDP, as it may not fit on one GPU, and with `--offload`, so that it does not take up memory
    while the caches are filled. A model of bitsandbytes stays where it was quantized.
    """
    waits = config.model.offload and not config.model.bnb_quantization_config_path
    return torch.device("cpu") if waits or shares_weights(accelerator) else accelerator.device


def sync_initial_weights(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Copy the first process's new adapters to all processes, whose random numbers differ; DDP does so by itself."""
    if shares_weights(accelerator):
        broadcast([parameter.data for parameter in parameters])


def whole(family: Family, accelerator: Accelerator, config: TrainingConfig) -> Family | None:
    """Return the family with all of its trained weights, for validation and saving; every process must call this.

    With FSDP, no process has all weights: they are gathered into a second family, which the first process loads
    from disk onto the CPU.

    Returns:
        The family; None in every process but the first.
    """
    if not shares_weights(accelerator):
        return family if accelerator.is_main_process else None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights = {name: get_model_state_dict(part, options=options) for name, part in family.trained().items()}
    if not accelerator.is_main_process:
        return None
    with torch.random.fork_rng(devices=[]):  # new adapters draw random numbers on the CPU
        second = load_family(config.model)
    for name, part in second.trained().items():
        unknown = part.load_state_dict(weights[name], strict=False).unexpected_keys
        assert not unknown, f"weights of the {name} that it does not have: {unknown[:3]}"
    second.place(torch.device("cpu"), family.dtype)
    return second
