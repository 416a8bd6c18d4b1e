"""Optimizer, learning rate schedule, number of steps, and the moving average of the weights."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.optimization import SchedulerType, get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import EMA_NAME
from persam_dreambooth.training.config import OptimizationConfig
from persam_dreambooth.training.optimizer_args import PRODIGY_DEFAULTS
from persam_dreambooth.training.screen import warn

OPTIONS = (
    *("betas", "weight_decay", "eps"),
    *("beta3", "decouple", "use_bias_correction", "safeguard_warmup", "d_coef", "growth_rate"),
)
"""Options of a parameter group that come from flags and may change on resume, except the learning rate; Prodigy's
come last."""
STATE_BYTES = {"adamw": 8, "adamw8bit": 2, "paged_adamw8bit": 2, "prodigy": 16}
"""Memory of each optimizer's states, in bytes per trained weight, for estimates."""
POLYNOMIAL_END = 1e-7
"""Final learning rate of diffusers' polynomial schedule."""


def check(config: OptimizationConfig) -> None:
    """Refuse, before anything is loaded, flags from which no optimizer or schedule can be built.

    Raises:
        UserError: an unknown schedule, a learning rate below the schedule's final one, or an optimizer that is not
            installed.
    """
    no_rules = SchedulerType.PIECEWISE_CONSTANT  # needs rules that no flag gives
    allowed = [kind.value for kind in SchedulerType if kind != no_rules]
    if config.lr_scheduler not in allowed:
        raise UserError(f"--lr_scheduler {config.lr_scheduler} is unknown; choose one of {', '.join(allowed)}")
    if config.lr_scheduler == "polynomial" and (config.learning_rate or 0.0) <= POLYNOMIAL_END:
        raise UserError(
            f"--lr_scheduler polynomial ends at {POLYNOMIAL_END:g}; --learning_rate {config.learning_rate:g} must be "
            "higher, or choose another schedule"
        )
    _optimizer_class(config)


def build_optimizer(
    parameters: list[nn.Parameter],
    config: OptimizationConfig,
    batch: int,
    of_encoders: Sequence[nn.Parameter] = (),
    apart: bool = False,
) -> Optimizer:
    """Build the optimizer over the trainable parameters, which must already be on their device.

    Args:
        parameters: the trainable parameters.
        config: kind, rates and decays.
        batch: photos in one batch over all processes; `--scale_lr` multiplies the rate by it and accumulation.
        of_encoders: those of the parameters, at their end, that belong to text encoders; a second group with
            `--text_encoder_lr` or `--adam_weight_decay_text_encoder`.
        apart: make the second group without these flags too, for textual inversion.
    """
    scale = config.gradient_accumulation_steps * batch if config.scale_lr else 1
    options: dict[str, Any] = {
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }
    if config.optimizer == "prodigy":
        if (config.learning_rate or 0.0) <= 0.1:
            warn(f"--learning_rate {config.learning_rate:g} multiplies Prodigy's own rate; about 1 is usual")
        options |= PRODIGY_DEFAULTS
    elif config.optimizer == "adamw":
        options["fused"] = True  # a third faster on a CPU too
    options |= config.optimizer_args
    options["betas"] = tuple(options["betas"])
    rate = (config.learning_rate or 0.0) * scale
    groups: list[dict[str, Any]] = [{"params": parameters}]
    own = {"lr": config.text_encoder_lr, "weight_decay": config.adam_weight_decay_text_encoder}
    own = {name: value for name, value in own.items() if value is not None}
    if (own or apart) and of_encoders:
        groups = [{"params": parameters[: -len(of_encoders)]}, {"params": list(of_encoders), **own}]
        groups = groups if groups[0]["params"] else groups[1:]  # textual inversion alone
    optimizer: Optimizer = _optimizer_class(config)(groups, lr=rate, **options)
    return optimizer


@dataclass(frozen=True)
class Settings:
    """Optimizer and schedule settings from the flags, which loading a checkpoint would overwrite with older ones.

    Attributes:
        options: of each parameter group.
        rates: learning rate of each group, before the schedule's factor.
    """

    options: list[dict[str, Any]]
    rates: list[float]

    @classmethod
    def of(cls, optimizer: Any, scheduler: Any) -> Self:
        """Read the settings as built from the flags, before a checkpoint is loaded."""
        options = [{name: group[name] for name in OPTIONS if name in group} for group in optimizer.param_groups]
        return cls(options, list(_schedule(scheduler).base_lrs))

    def apply(self, optimizer: Any, scheduler: Any) -> None:
        """Apply the settings after a checkpoint is loaded, with the learning rate of the schedule's current step."""
        schedule = _schedule(scheduler)
        schedule.base_lrs = list(self.rates)
        now = [
            rate * factor(schedule.last_epoch) for rate, factor in zip(self.rates, schedule.lr_lambdas, strict=True)
        ]
        schedule._last_lr = now
        for group, options, base, rate in zip(optimizer.param_groups, self.options, self.rates, now, strict=True):
            group.update(options, initial_lr=base, lr=rate)


def _schedule(scheduler: Any) -> Any:
    """Return torch's scheduler inside Accelerate's wrapper."""
    return getattr(scheduler, "scheduler", scheduler)


def _optimizer_class(config: OptimizationConfig) -> Any:
    try:
        if config.optimizer == "adamw8bit":
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit
        if config.optimizer == "paged_adamw8bit":
            from bitsandbytes.optim import PagedAdamW8bit

            return PagedAdamW8bit
        if config.optimizer == "prodigy":
            from prodigyopt import Prodigy

            return Prodigy
    except ImportError as error:
        package = "prodigyopt" if config.optimizer == "prodigy" else "bitsandbytes"
        raise UserError(f"--optimizer {config.optimizer} needs `pip install {package}`") from error
    return torch.optim.AdamW


def count_steps(config: OptimizationConfig, batches: int, processes: int) -> int:
    """Count the optimizer steps of the whole run.

    Args:
        config: `max_train_steps`, or epochs and accumulation.
        batches: in an epoch, before they are split between the processes.
        processes: number of processes.
    """
    if config.max_train_steps is not None:
        return config.max_train_steps
    return config.num_train_epochs * steps_in_an_epoch(config, batches, processes)


def steps_in_an_epoch(config: OptimizationConfig, batches: int, processes: int) -> int:
    """Count the optimizer steps of one epoch; see `count_steps`."""
    return math.ceil(math.ceil(batches / processes) / config.gradient_accumulation_steps)


def build_scheduler(
    optimizer: Optimizer, config: OptimizationConfig, steps: int, processes: int, share: float | None = None
) -> Any:
    """Build the learning rate schedule; Accelerate steps it once per process, hence the products.

    Args:
        optimizer: from `build_optimizer`.
        config: the schedule.
        steps: of the whole run.
        processes: number of processes.
        share: of the steps, at least one, after which the last group's rate is 0; None never.
    """
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=config.lr_warmup_steps * processes,
        num_training_steps=steps * processes,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )
    if share is not None:
        last, factor = max(round(share * steps), 1) * processes, schedule.lr_lambdas[-1]
        schedule.lr_lambdas[-1] = lambda step: factor(step) if step < last else 0.0
    return schedule


def build_average(parameters: Sequence[nn.Parameter], config: OptimizationConfig) -> EMAModel | None:
    """Build the EMA of the weights, as in diffusers' scripts; None without `--use_ema`.

    After step t it is s_t = d_t s_(t-1) + (1 - d_t) w_t with d_t = min(t / (9 + t), --ema_decay) and
    d_1 = 0, so that short runs average over about their last tenth.
    """
    return EMAModel(parameters, decay=config.ema_decay) if config.use_ema else None


@contextmanager
def averaged(average: EMAModel | None, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Swap the EMA weights into the parameters inside the block; does nothing without an EMA."""
    if average is None:
        yield
        return
    average.store(parameters)
    average.copy_to(parameters)
    try:
        yield
    finally:
        average.restore(parameters)


def save_average(average: EMAModel, folder: Path) -> None:
    """Write the EMA into a checkpoint."""
    tensors = {str(number): weight.contiguous() for number, weight in enumerate(average.shadow_params)}
    save_file(tensors | {"step": torch.tensor(average.optimization_step)}, folder / EMA_NAME)


def load_average(average: EMAModel, folder: Path) -> None:
    """Read what `save_average` wrote."""
    tensors = load_file(folder / EMA_NAME)
    average.optimization_step = int(tensors["step"])
    for number, weight in enumerate(average.shadow_params):
        weight.copy_(tensors[str(number)])
