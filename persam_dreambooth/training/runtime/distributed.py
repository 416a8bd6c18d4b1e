"""What processes may share: batches, gradients, optimizer state, and with FSDP the weights themselves."""

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
    """Refuse what would train or save wrong weights.

    Args:
        config: the training's flags.
        deepspeed: Accelerate's settings, if it was launched with DeepSpeed.
        fsdp: likewise with FSDP.

    Raises:
        UserError: settings or flags that one of them cannot be given.
    """
    flags = {
        "train_text_encoder": config.model.train_text_encoder,
        "use_ema": config.optimization.use_ema,
    }
    if deepspeed is not None:
        if deepspeed.zero_stage == 3:
            raise UserError(
                "DeepSpeed ZeRO-3 spreads the weights over the processes and hands them out in 16 bits only; launch "
                "with configs/accelerate/deepspeed_zero2.yaml or fsdp.yaml"
            )
        _refuse(flags, "DeepSpeed, which takes one model and keeps its weights in low precision")
    if fsdp is not None:
        _check_fsdp(fsdp)
        other = config.optimization.optimizer
        _refuse(flags | {f"optimizer {other}": other != "adamw"}, "FSDP, which spreads one model's weights for AdamW")


def _refuse(flags: dict[str, bool], what: str) -> None:
    for flag, given in flags.items():
        if given:
            raise UserError(f"--{flag} does not go with {what}; drop it, or {INSTEAD}")


def _check_fsdp(plugin: FullyShardedDataParallelPlugin) -> None:
    needed = {
        "fsdp_version: 2": plugin.fsdp_version == 2,
        # Of the other kind of checkpoint an index is read that may hold code (a pickle).
        "fsdp_state_dict_type: FULL_STATE_DICT": plugin.state_dict_type == StateDictType.FULL_STATE_DICT,
        # With it all processes but the first would load empty text encoders.
        "fsdp_cpu_ram_efficient_loading: false": not plugin.cpu_ram_efficient_loading,
    }
    missing = [setting for setting, there in needed.items() if not there]
    if missing:
        raise UserError(
            f"FSDP needs {missing[0]} in Accelerate's config file; launch with configs/accelerate/fsdp.yaml, or set it"
        )


def shares_weights(accelerator: Accelerator) -> bool:
    """Whether no process has all weights: with FSDP."""
    return accelerator.distributed_type == DistributedType.FSDP


def staging_device(accelerator: Accelerator) -> torch.device:
    """Where the denoiser waits for Accelerate: with FSDP on the CPU, since no GPU need hold the whole of it."""
    return torch.device("cpu") if shares_weights(accelerator) else accelerator.device


def sync_initial_weights(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Give all processes the first one's new adapters, since their random numbers differ; DDP does so by itself."""
    if shares_weights(accelerator):
        broadcast([one.data for one in parameters])


def whole(family: Family, accelerator: Accelerator, config: TrainingConfig) -> Family | None:
    """The family with all of its trained weights, to draw and to save with; every process must ask.

    With FSDP no process has them: they are gathered into a second one, loaded from disk in the first process, on
    the CPU.

    Returns:
        The family; None in every process but the first.
    """
    if not shares_weights(accelerator):
        return family if accelerator.is_main_process else None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights = {name: get_model_state_dict(part, options=options) for name, part in family.trained().items()}
    if not accelerator.is_main_process:
        return None
    with torch.random.fork_rng():  # new adapters draw random numbers
        second = load_family(config.model)
    for name, part in second.trained().items():
        unknown = part.load_state_dict(weights[name], strict=False).unexpected_keys
        assert not unknown, f"weights of the {name} that it does not have: {unknown[:3]}"
    second.place(torch.device("cpu"), family.dtype)
    return second
