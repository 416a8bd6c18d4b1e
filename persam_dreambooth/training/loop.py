"""The DreamBooth loop: it trains and does nothing else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.training import checkpoints
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.loader import remaining_batches
from persam_dreambooth.training.objective import training_loss
from persam_dreambooth.training.validation import validate


@dataclass
class Training:
    """What the loop runs on, everything prepared by Accelerate."""

    config: TrainingConfig
    accelerator: Accelerator
    family: Family
    loader: Any
    optimizer: Any
    scheduler: Any
    parameters: list[nn.Parameter]
    steps: int


def fit(run: Training, progress: checkpoints.Progress) -> None:
    """Train until `run.steps` optimizer steps are taken, moving `progress` along."""
    config, accelerator, family = run.config, run.accelerator, run.family
    trained = list(family.trained().values())
    bar = tqdm(
        total=run.steps,
        initial=progress.step,
        desc="Training",
        unit="step",
        disable=not accelerator.is_local_main_process,
    )
    for part in trained:
        part.train()
    collected: dict[str, list[Tensor]] = {}
    while progress.step < run.steps:
        for batch in remaining_batches(run.loader, progress):
            progress.batches += 1
            with accelerator.accumulate(*trained):
                loss, terms = training_loss(family, batch, config)
                _stop_on_nan(terms, progress)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(run.parameters, config.optimization.max_grad_norm)
                run.optimizer.step()
                run.scheduler.step()
                run.optimizer.zero_grad(set_to_none=config.optimization.set_grads_to_none)
            for name, value in terms.items():
                collected.setdefault(name, []).append(value)
            if not accelerator.sync_gradients:
                continue
            progress.step += 1
            bar.update()
            values = _means(collected, accelerator)
            collected = {}
            bar.set_postfix(loss=f"{values['loss']:.4f}")
            accelerator.log(values | {"lr": run.scheduler.get_last_lr()[0]}, step=progress.step)
            if progress.step % config.output.checkpointing_steps == 0:
                keep = config.output.checkpoints_total_limit
                checkpoints.save_checkpoint(accelerator, Path(config.output.output_dir), progress, keep)
            due = progress.step % config.validation.validation_steps == 0 and progress.step < run.steps
            if due and accelerator.is_main_process:
                validate(family, config, accelerator, progress.step)
            if progress.step >= run.steps:
                break
        else:
            progress.epoch, progress.batches = progress.epoch + 1, 0
    bar.close()


def _means(collected: dict[str, list[Tensor]], accelerator: Accelerator) -> dict[str, float]:
    """Each term's mean over the micro-batches of a step and over all processes."""
    means = torch.stack([torch.stack(values).mean() for values in collected.values()])
    means = accelerator.reduce(means, "mean")
    return dict(zip(collected, means.tolist(), strict=True))


def _stop_on_nan(terms: dict[str, Tensor], progress: checkpoints.Progress) -> None:
    if not torch.isfinite(terms["loss"]):
        raise UserError(
            f"the loss became {terms['loss'].item()} after step {progress.step}; lower --learning_rate or use "
            "--mixed_precision bf16 instead of fp16. Checkpoints up to here are kept"
        )
