"""The DreamBooth loop: it trains and does nothing else."""

from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm.contrib.logging import logging_redirect_tqdm

from persam_dreambooth.errors import Stopped, UserError
from persam_dreambooth.training.callbacks import TrainingCallbacks
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data.stream import PhotoStream
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.loader import remaining_batches
from persam_dreambooth.training.objective import training_loss
from persam_dreambooth.training.runtime import checkpoint
from persam_dreambooth.training.runtime.checkpoint import Progress
from persam_dreambooth.training.runtime.distributed import whole
from persam_dreambooth.training.runtime.ema import averaged
from persam_dreambooth.training.runtime.interrupts import StopSignal
from persam_dreambooth.training.runtime.step_metrics import StepMetrics
from persam_dreambooth.training.runtime.validation import validate
from persam_dreambooth.training.screen import LossBar, drawn_in_words, say


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
    stream: PhotoStream | None
    average: EMAModel | None
    callbacks: TrainingCallbacks


def fit(run: Training, progress: Progress, stop: StopSignal) -> dict[str, float]:
    """Train until `run.steps` optimizer steps are taken, moving `progress` along.

    Returns:
        The last step's terms of the loss; empty if none was left to take.

    Raises:
        Stopped: a signal came before the last step; a checkpoint of the step just taken is written.
        Exception: a callback's, likewise.
        UserError: loss, gradient or weights are no longer finite.
    """
    for part in run.family.trained().values():
        part.train()
    bar = LossBar(run.steps, progress.step, hidden=not run.accelerator.is_local_main_process)
    with logging_redirect_tqdm(), bar:
        losses = _steps(run, progress, stop, bar)
    _refuse_broken_weights(run, progress)
    return losses


def _steps(run: Training, progress: Progress, stop: StopSignal, bar: LossBar) -> dict[str, float]:
    config, accelerator = run.config, run.accelerator
    metrics, values = StepMetrics(), dict[str, float]()
    while progress.step < run.steps:
        for batch in remaining_batches(run.loader, progress, run.stream):
            if run.stream is not None:
                run.stream.seed_batch(progress.batches)
            progress.batches += 1
            taken = _learn(run, batch, metrics, progress, stop)
            if taken is None:
                continue
            metrics, (values, stopping) = StepMetrics(), taken
            progress.step += 1
            if run.average is not None:
                run.average.step(run.parameters)
            bar.advance(values["loss"])
            accelerator.log(values | {"lr": run.scheduler.get_last_lr()[0]}, step=progress.step)
            stop.call(run.callbacks.on_step, progress.step, values)
            # Several processes agree on it in the next step.
            stopping |= stop.error is not None and accelerator.num_processes == 1
            if progress.step >= run.steps:
                stopping = False  # what is left is to save the result
            if stopping or progress.step % config.output.checkpointing_steps == 0:
                _save(run, progress, stop)
            if stopping:
                raise _stopped(run, progress, stop)
            if progress.step % config.validation.validation_steps == 0 and progress.step < run.steps:
                _draw(run, progress.step, stop)
            if progress.step >= run.steps:
                break
        else:
            progress.epoch, progress.batches = progress.epoch + 1, 0
    return values


def _learn(
    run: Training, batch: dict[str, Any], metrics: StepMetrics, progress: Progress, stop: StopSignal
) -> tuple[dict[str, float], bool] | None:
    """Forwards and backwards through one batch; with the last one of a step, the step.

    Returns:
        None before the last one; then the means of the loss's terms, and whether to stop.
    """
    config, accelerator = run.config, run.accelerator
    taken = None
    with accelerator.accumulate(*run.family.trained().values()):
        loss, terms = training_loss(run.family, batch, config)
        metrics.add(terms, batch["photos"])
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            norm = accelerator.clip_grad_norm_(run.parameters, config.optimization.max_grad_norm)
            taken = values, _ = metrics.means(accelerator, stop.wanted)
            output = Path(config.output.output_dir)
            # DeepSpeed clips by itself, and has no norm to tell.
            norm = 0.0 if norm is None else float(norm)
            metrics.refuse_not_finite(values["loss"], norm, accelerator, progress.step + 1, output)
        run.optimizer.step()
        run.scheduler.step()
        run.optimizer.zero_grad(set_to_none=config.optimization.set_grads_to_none)
    return taken


def _draw(run: Training, step: int, stop: StopSignal) -> None:
    """Pictures of the model as it is now."""
    with averaged(run.average, run.parameters):
        family = whole(run.family, run.accelerator, run.config) if run.config.validation.validation_prompt else None
        if family is not None:
            pictures = validate(family, run.config, run.accelerator, step)
            say(*drawn_in_words(pictures))
            stop.call(run.callbacks.on_validation, pictures)


def _save(run: Training, progress: Progress, stop: StopSignal) -> None:
    """Write a checkpoint, of weights that can be gone on with only."""
    _refuse_broken_weights(run, progress)
    output = run.config.output
    folder, keep = Path(output.output_dir), output.checkpoints_total_limit
    written = checkpoint.save_checkpoint(run.accelerator, folder, progress, keep)
    if written is not None:
        say(f"checkpoint: {written}")
        stop.call(run.callbacks.on_checkpoint, written)


def _refuse_broken_weights(run: Training, progress: Progress) -> None:
    """Finite gradients can still lead to weights that are not; those are neither kept nor handed out."""
    finite = torch.stack([torch.isfinite(one).all() for one in run.parameters]).all()
    if not finite:
        raise UserError(
            f"the weights are no longer finite after step {progress.step}; "
            f"{checkpoint.in_words(Path(run.config.output.output_dir))}; lower --learning_rate"
        )


def _stopped(run: Training, progress: Progress, stop: StopSignal) -> Exception:
    """The callback's error, or else the signal's, either with where to go on from."""
    where = f"after step {progress.step} of {run.steps}; {checkpoint.in_words(Path(run.config.output.output_dir))}"
    if stop.error is not None:
        stop.error.add_note(f'the training ended {where}: go on with resume_from_checkpoint="latest"')
        return stop.error
    number = stop.number or SIGTERM  # another process's signal
    return Stopped(
        f"stopped by {Signals(number).name} {where}: go on with the same command and --resume_from_checkpoint latest",
        number,
    )
