"""Optimizer and learning-rate schedule, and how many steps there will be."""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers.optimization import SchedulerType, get_scheduler
from torch import nn
from torch.optim import Optimizer

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import OptimizationConfig
from persam_dreambooth.training.screen import warn

OPTIONS = (
    *("betas", "weight_decay", "eps"),
    *("beta3", "decouple", "use_bias_correction", "safeguard_warmup"),
)
"""The settings of a parameter group that flags give, but the learning rate; Prodigy's last."""
POLYNOMIAL_END = 1e-7
"""Where diffusers' polynomial schedule ends."""


def check(config: OptimizationConfig) -> None:
    """Refuse, before anything is loaded, what could not be built.

    Raises:
        UserError: an unknown schedule, one that cannot end where it has to, or an optimizer that is not installed.
    """
    no_rules = SchedulerType.PIECEWISE_CONSTANT  # which no flag could say
    allowed = [kind.value for kind in SchedulerType if kind != no_rules]
    if config.lr_scheduler not in allowed:
        raise UserError(f"--lr_scheduler {config.lr_scheduler} is unknown; choose one of {', '.join(allowed)}")
    if config.lr_scheduler == "polynomial" and (config.learning_rate or 0.0) <= POLYNOMIAL_END:
        raise UserError(
            f"--lr_scheduler polynomial ends at {POLYNOMIAL_END:g}; --learning_rate {config.learning_rate:g} must be "
            "above, or choose another"
        )
    _optimizer_class(config)


def build_optimizer(parameters: list[nn.Parameter], config: OptimizationConfig, batch: int) -> Optimizer:
    """The optimizer over the trainable parameters, which lie where they are trained.

    Args:
        parameters: what is trained.
        config: kind, rates and decays.
        batch: photos in one batch over all processes; `--scale_lr` multiplies the rate by it and by the accumulation.
    """
    scale = config.gradient_accumulation_steps * batch if config.scale_lr else 1
    options: dict[str, Any] = {}
    if config.optimizer == "prodigy":
        if (config.learning_rate or 0.0) <= 0.1:
            warn(f"--learning_rate {config.learning_rate:g} is a factor of what Prodigy finds; about 1 is usual")
        names = ("beta3", "decouple", "use_bias_correction", "safeguard_warmup")
        options = {name: getattr(config, f"prodigy_{name}") for name in names}
    elif config.optimizer == "adamw":
        options = {"fused": True}  # a third faster on a CPU too
    optimizer: Optimizer = _optimizer_class(config)(
        parameters,
        lr=(config.learning_rate or 0.0) * scale,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        **options,
    )
    return optimizer


@dataclass(frozen=True)
class Settings:
    """What flags say of an optimizer and its schedule, which a checkpoint's state replaces by what they were before.

    Attributes:
        options: of each parameter group.
        rates: each group's learning rate before the schedule's factor.
    """

    options: list[dict[str, Any]]
    rates: list[float]

    @classmethod
    def of(cls, optimizer: Any, scheduler: Any) -> Self:
        """The settings as built from the flags, before a checkpoint is loaded."""
        options = [{name: group[name] for name in OPTIONS if name in group} for group in optimizer.param_groups]
        return cls(options, list(_schedule(scheduler).base_lrs))

    def apply(self, optimizer: Any, scheduler: Any) -> None:
        """Put them in force again, the learning rate at the step that the schedule has come to."""
        schedule = _schedule(scheduler)
        schedule.base_lrs = list(self.rates)
        now = [
            rate * factor(schedule.last_epoch) for rate, factor in zip(self.rates, schedule.lr_lambdas, strict=True)
        ]
        schedule._last_lr = now
        for group, options, base, rate in zip(optimizer.param_groups, self.options, self.rates, now, strict=True):
            group.update(options, initial_lr=base, lr=rate)


def _schedule(scheduler: Any) -> Any:
    """torch's own, inside of Accelerate's."""
    return getattr(scheduler, "scheduler", scheduler)


def _optimizer_class(config: OptimizationConfig) -> Any:
    try:
        if config.optimizer == "adamw8bit":
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit
        if config.optimizer == "prodigy":
            from prodigyopt import Prodigy

            return Prodigy
    except ImportError as error:
        package = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}[config.optimizer]
        raise UserError(f"--optimizer {config.optimizer} needs `pip install {package}`") from error
    return torch.optim.AdamW


def count_steps(config: OptimizationConfig, batches: int, processes: int) -> int:
    """Optimizer steps of the whole run.

    Args:
        config: `max_train_steps`, or epochs and accumulation.
        batches: a whole epoch's, before they are split between the processes.
        processes: how many share them.
    """
    if config.max_train_steps is not None:
        return config.max_train_steps
    return config.num_train_epochs * steps_in_an_epoch(config, batches, processes)


def steps_in_an_epoch(config: OptimizationConfig, batches: int, processes: int) -> int:
    """Optimizer steps of one epoch; see `count_steps`."""
    return math.ceil(math.ceil(batches / processes) / config.gradient_accumulation_steps)


def build_scheduler(optimizer: Optimizer, config: OptimizationConfig, steps: int, processes: int) -> Any:
    """The learning-rate schedule; Accelerate advances it once a process, hence the products."""
    return get_scheduler(
        config.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=config.lr_warmup_steps * processes,
        num_training_steps=steps * processes,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )
