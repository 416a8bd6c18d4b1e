"""The DreamBooth training loop, and the functions that it calls while it runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm.contrib.logging import logging_redirect_tqdm

from persam_dreambooth.errors import Stopped, UserError, first_line, is_out_of_memory
from persam_dreambooth.metrics_file import WARNING, MetricsFile
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data.dataset import Batch
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.loader import PhotoStream, remaining_batches
from persam_dreambooth.training.objective import is_unmasked, training_loss
from persam_dreambooth.training.prior_bank import PriorBank
from persam_dreambooth.training.runtime import checkpoint, likeness
from persam_dreambooth.training.runtime.checkpoint import Progress
from persam_dreambooth.training.runtime.distributed import whole
from persam_dreambooth.training.runtime.flat_loss import FlatLoss
from persam_dreambooth.training.runtime.likeness import Likeness
from persam_dreambooth.training.runtime.optimizer import averaged
from persam_dreambooth.training.runtime.process_state import StopSignal
from persam_dreambooth.training.runtime.tracking import StepMetrics
from persam_dreambooth.training.runtime.validation import picture_files, validate
from persam_dreambooth.training.screen import LossBar, drawn_in_words, say, warn


def _ignore(*_: object) -> None:
    """Do nothing: the default of every callback."""


@dataclass(frozen=True)
class TrainingCallbacks:
    """Functions that `train` calls in its own thread, and only in the first of several processes.

    An exception in a callback ends the run as Ctrl-C does: a checkpoint is written, and `train` raises the exception.
    After `on_step` this is the step just taken; after `on_checkpoint` and `on_validation`, and with several processes,
    one more step is taken, in which all processes agree to stop. After the last step the model is saved first.

    Attributes:
        on_step: called after each optimizer step with its number (from 1; a resumed run continues to count) and the
            terms of the loss, by their names in the log: means over the step's batches. "loss" is their weighted sum.
        on_checkpoint: called with the folder of each finished checkpoint.
        on_validation: called with the paths of new validation pictures.
    """

    on_step: Callable[[int, Mapping[str, float]], object] = _ignore
    on_checkpoint: Callable[[Path], object] = _ignore
    on_validation: Callable[[Sequence[Path]], object] = _ignore


@dataclass
class Training:
    """Everything the loop needs, prepared by Accelerate; validation images are drawn every `drawn_every` steps."""

    config: TrainingConfig
    accelerator: Accelerator
    family: Family
    loader: Any
    optimizer: Any
    scheduler: Any
    parameters: list[nn.Parameter]
    steps: int
    drawn_every: int
    stream: PhotoStream | None
    average: EMAModel | None
    metrics: MetricsFile
    flat: FlatLoss
    callbacks: TrainingCallbacks
    likeness: Likeness | None
    bank: PriorBank | None = None


@dataclass(frozen=True)
class StepResult:
    """Result of one optimizer step.

    Attributes:
        losses: terms of the loss by their names in the log, means over the step's batches and all processes.
        stop: whether any process was asked to stop.
    """

    losses: dict[str, float]
    stop: bool


def fit(run: Training, progress: Progress, stop: StopSignal) -> dict[str, float]:
    """Train until `run.steps` optimizer steps are taken, and advance `progress`.

    Returns:
        The last step's terms of the loss; empty if no step was left to take.

    Raises:
        Stopped: a signal came before the last step; a checkpoint of the step just taken is written.
        Exception: raised by a callback, likewise.
        UserError: loss, gradient or weights are no longer finite.
    """
    for part in run.family.trained().values():
        part.train()
    if progress.step == 0 and run.likeness is not None:
        _draw(run, 0, stop)  # where the measures start from
    elif 0 < progress.step < run.steps and progress.step % run.drawn_every == 0:
        _draw(run, progress.step, stop, resumed=True)
    bar = LossBar(run.steps, progress.step, hidden=not run.accelerator.is_local_main_process)
    losses = dict[str, float]()
    with logging_redirect_tqdm(), bar:
        for result in _steps(run, progress, stop):
            losses = result.losses
            bar.advance(losses["loss"])
            _after_step(run, result, progress, stop)
            if progress.step % run.drawn_every == 0:
                bar.unpause()  # otherwise the bar counts the time of the validation images as a step's
    _refuse_broken_weights(run, progress)
    return losses


def _steps(run: Training, progress: Progress, stop: StopSignal) -> Iterator[StepResult]:
    """Take optimizer steps, epoch after epoch, and yield the result of each."""
    metrics = StepMetrics()
    while progress.step < run.steps:
        for batch in remaining_batches(run.loader, progress, run.stream):
            if run.stream is not None:
                run.stream.seed_batch(progress.batches)
            progress.batches += 1
            result = _learn(run, batch, metrics, progress, stop)
            if result is None:
                continue
            metrics = StepMetrics()
            progress.step += 1
            yield result
            if progress.step == run.steps:
                return
        progress.epoch, progress.batches = progress.epoch + 1, 0


def _learn(
    run: Training, batch: Batch, metrics: StepMetrics, progress: Progress, stop: StopSignal
) -> StepResult | None:
    """Run forward and backward on one batch and, with the last batch of a step, take the step.

    Returns:
        None before the last batch.
    """
    config, accelerator = run.config, run.accelerator
    result = None
    with accelerator.accumulate(*run.family.trained().values()):
        unmasked = is_unmasked(config, progress.step)
        loss, terms = training_loss(run.family, batch, config, unmasked, run.bank)
        metrics.add(terms, batch.photos)
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            norm = accelerator.clip_grad_norm_(run.parameters, config.optimization.max_grad_norm)
            norm = 0.0 if norm is None else float(norm)  # DeepSpeed clips by itself and returns no norm
            result = StepResult(*metrics.means(accelerator, stop.wanted))
            output = Path(config.output.output_dir)
            metrics.refuse_not_finite(result.losses["loss"], norm, accelerator, progress.step + 1, output)
        run.optimizer.step()
        if accelerator.sync_gradients:
            run.family.finish_step()
        run.scheduler.step()
        run.optimizer.zero_grad(set_to_none=config.optimization.set_grads_to_none)
    return result


def _after_step(run: Training, result: StepResult, progress: Progress, stop: StopSignal) -> None:
    """Update the EMA, log, call `on_step`; write a checkpoint and validation pictures when they are due.

    Raises:
        Stopped, Exception: as `fit`.
    """
    config, step = run.config, progress.step
    if run.average is not None:
        run.average.step(run.parameters)
    numbers = result.losses | {"lr": float(run.scheduler.get_last_lr()[0])}
    run.accelerator.log(numbers, step=step)
    run.metrics.add(step, numbers)
    if warning := run.flat.add(result.losses.get("instance_loss", result.losses["loss"])):
        _warn(run, step, warning)
    stop.call(run.callbacks.on_step, step, result.losses)
    is_last = step == run.steps
    # After a callback's error, several processes agree to stop in the next step; after the last step the model is
    # saved first.
    stopping = not is_last and (result.stop or (stop.error is not None and run.accelerator.num_processes == 1))
    if stopping or step % config.output.checkpointing_steps == 0:
        _save(run, progress, stop)
    if stopping:
        raise _stopped(run, progress, stop)
    if step % run.drawn_every == 0 and not is_last:
        _draw(run, step, stop)


def _draw(run: Training, step: int, stop: StopSignal, resumed: bool = False) -> None:
    """Draw validation pictures with the current model.

    Args:
        run: the training.
        step: steps taken.
        stop: calls the callback.
        resumed: the run resumes after this step; draw only if it ended after the checkpoint and before the pictures
            were drawn and measured.
    """
    with averaged(run.average, run.parameters):
        family = whole(run.family, run.accelerator, run.config) if run.config.validation.prompts else None
        if family is not None and not (resumed and _is_drawn(run, step)):
            pictures = validate(family, run.config, run.accelerator, step, run.config.validation.prompts)
            say(*drawn_in_words(pictures))
            measure(run, step, pictures)
            stop.call(run.callbacks.on_validation, pictures)


def _is_drawn(run: Training, step: int) -> bool:
    """Return whether the validation pictures of a step are there, and measured if that is wanted."""
    output, prompts = Path(run.config.output.output_dir), run.config.validation.prompts
    is_measured = run.likeness is None or run.likeness.has_measured(output, step)
    return is_measured and all(path.exists() for path in picture_files(run.config, prompts, step))


def measure(run: Training, step: int, pictures: Sequence[Path]) -> None:
    """Measure validation pictures, if that is wanted, and warn once if the background leaks into them."""
    if run.likeness is None or not pictures:
        return
    output = Path(run.config.output.output_dir)
    try:
        values = run.likeness.measure(pictures, output)
    except (UserError, OSError, MemoryError, RuntimeError) as error:  # the training itself goes on
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        reason = first_line(error)
        warn(f"the validation images are no longer measured: {reason}")
        run.likeness = None
        return
    run.accelerator.log(values, step=step)
    run.metrics.add(step, values)
    say(*likeness.in_words(values))
    if warning := likeness.leakage_warning(output, run.config.mask.background_prior_weight):
        _warn(run, step, warning)


def _warn(run: Training, step: int, words: str) -> None:
    """Warn on the screen and, through `metrics.jsonl`, on the review page."""
    warn(words)
    run.metrics.add(step, {WARNING: words})


def _save(run: Training, progress: Progress, stop: StopSignal) -> None:
    """Write a checkpoint, unless the weights are broken."""
    _refuse_broken_weights(run, progress)
    output = run.config.output
    folder, keep = Path(output.output_dir), output.checkpoints_total_limit
    written = checkpoint.save_checkpoint(run.accelerator, folder, progress, keep)
    if written is not None:
        say(f"checkpoint: {written}")
        stop.call(run.callbacks.on_checkpoint, written)


def _refuse_broken_weights(run: Training, progress: Progress) -> None:
    """Raise if a weight is not finite, which happens even with finite gradients; such a model is never saved."""
    finite = torch.stack([torch.isfinite(weight).all() for weight in run.parameters]).all()
    if not finite:
        raise UserError(
            f"the weights are no longer finite after step {progress.step}; "
            f"{checkpoint.in_words(Path(run.config.output.output_dir))}; lower --learning_rate"
        )


def _stopped(run: Training, progress: Progress, stop: StopSignal) -> Exception:
    """Return the callback's error or else the signal's, with the checkpoint to resume from."""
    where = f"after step {progress.step} of {run.steps}; {checkpoint.in_words(Path(run.config.output.output_dir))}"
    if stop.error is not None:
        stop.error.add_note(f'the training ended {where}: resume it with resume_from_checkpoint="latest"')
        return stop.error
    number = stop.number or SIGTERM  # another process's signal
    return Stopped(
        f"stopped by {Signals(number).name} {where}: resume with the same command and --resume_from_checkpoint latest",
        number,
    )
