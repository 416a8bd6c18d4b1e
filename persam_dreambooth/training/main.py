"""A training run from its settings to the saved model and its result."""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from persam_dreambooth.errors import Stopped
from persam_dreambooth.metrics_file import MetricsFile
from persam_dreambooth.model_folder import CONFIG_NAME, checkpoints
from persam_dreambooth.photos.manifest import MANIFEST_NAME, write_manifest
from persam_dreambooth.quiet import quiet
from persam_dreambooth.training import screen, summary
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data import mask_report, remarks
from persam_dreambooth.training.data.class_images import PRECISIONS
from persam_dreambooth.training.dry_run import dry_run
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.families.loading import compile_blocks
from persam_dreambooth.training.loader import build_loader, stream_of
from persam_dreambooth.training.loop import Training, TrainingCallbacks, fit, measure
from persam_dreambooth.training.output import best_checkpoint, lora_metadata, save
from persam_dreambooth.training.output.model_card import Card
from persam_dreambooth.training.prior_bank import PriorBank
from persam_dreambooth.training.runtime import checkpoint, distributed, process_state, resuming, tracking, workers
from persam_dreambooth.training.runtime.flat_loss import FlatLoss
from persam_dreambooth.training.runtime.optimizer import (
    Settings,
    averaged,
    build_average,
    build_optimizer,
    build_scheduler,
    count_steps,
    steps_in_an_epoch,
)
from persam_dreambooth.training.runtime.process_state import StopSignal, own_state
from persam_dreambooth.training.runtime.validation import validate
from persam_dreambooth.training.setup import Setup, load_base, setup


@dataclass(frozen=True)
class TrainingResult:
    """Files and numbers of a finished run.

    With several processes the first one writes the files; in the others `model` and `validation_images` are empty.

    Attributes:
        output_dir: the output folder, for `load_pipeline`.
        model: the model's files and folders in it: LoRA weights, or a pipeline's parts.
        validation_images: pictures drawn after the last step.
        checkpoints: folders of the checkpoints that were kept, oldest first.
        steps: number of optimizer steps, including those before resuming.
        losses: the last step's terms of the loss, as in `TrainingCallbacks.on_step`; empty if no step was left.
        best_checkpoint: with `--choose_checkpoint`, the folder of the best one, or `output_dir` if the result is it.
        prompt: the first subject's instance prompt; None if every photo has a caption or kohya's folders name it.
    """

    output_dir: Path
    model: Sequence[Path]
    validation_images: Sequence[Path]
    checkpoints: Sequence[Path]
    steps: int
    losses: Mapping[str, float]
    best_checkpoint: Path | None = None
    prompt: str | None = None


def train(config: TrainingConfig, *, callbacks: TrainingCallbacks | None = None) -> TrainingResult:
    """Train a model on photos and their masks, as `persam-dreambooth train` does.

    It can be called several times in one process, in a notebook and in any thread, one training at a time. Each run
    starts as in a new process, and Accelerate's global state is restored afterwards. The random generators of Python,
    NumPy and torch are seeded with `config.optimization.seed`. In the main thread SIGTERM and SIGINT (Ctrl-C, a
    notebook's stop button) end the run after the current step; in other threads no signal handler is installed.

    Args:
        config: all settings.
        callbacks: functions to call after a step, a checkpoint and validation pictures.

    Returns:
        Paths of the saved model, the last losses and the number of steps; with `--dry_run` nothing but the folder.

    Raises:
        UserError: a mistake of the user's, found before the first step where possible; the message names settings by
            their flags.
        Stopped: SIGTERM or SIGINT came during training; a checkpoint is written, and the same config with
            `resume_from_checkpoint="latest"` continues from it.
        Exception: raised by a callback, likewise.
    """
    with own_state(), process_state.memory_explained(config), workers.explained(), quiet():
        if config.output.dry_run:
            dry_run(config)
            return TrainingResult(Path(config.output.output_dir), [], [], [], 0, {})
        run = setup(config)
        family = load_base(run)
        is_main = run.accelerator.is_main_process
        with resuming.alone(config, run.resume_from) if is_main else nullcontext():
            result, card = _run(run, family, callbacks or TrainingCallbacks())
            del family  # its memory is needed to compare the checkpoints
            if card is not None and config.validation.choose_checkpoint:
                result = _choose(run, result, card)
        return result


def _run(run: Setup, family: Family, callbacks: TrainingCallbacks) -> tuple[TrainingResult, Card | None]:
    """Train and save, with the output folder locked; return the model card too, except in other processes."""
    accelerator, output = run.accelerator, Path(run.config.output.output_dir)
    if accelerator.is_main_process:
        _start_output(run, output)
    training, progress = _prepare(run, family, callbacks)
    begun, before = time.monotonic(), progress.step
    with StopSignal(speaks=accelerator.is_main_process) as stop:
        try:
            losses = fit(training, progress, stop)
            with averaged(training.average, training.parameters):
                model, pictures, card = _save_result(training, progress, run, stop)
        except Exception as error:
            raised_everywhere = isinstance(error, Stopped) or error is stop.error
            if raised_everywhere or accelerator.num_processes == 1:  # else it would wait for the others
                accelerator.end_training()
            raise
    accelerator.end_training()
    screen.say(*summary.ends(output, progress.step - before, time.monotonic() - begun))
    if stop.error is not None:
        stop.error.add_note(f"the training is complete, and its model is in {output}")
        raise stop.error
    files = [output / name for name in model]
    prompt = run.concepts[0].prompt
    return TrainingResult(output, files, pictures, checkpoints(output), progress.step, losses, prompt=prompt), card


def _choose(run: Setup, result: TrainingResult, card: Card) -> TrainingResult:
    """Choose the best checkpoint, after the memory of the training is free; note it in the card, and upload."""
    run.accelerator.free_memory()
    best = best_checkpoint.choose(run.config, run.concepts[0], run.accelerator.device)
    if best is not None:
        card = replace(card, best=best)
        card.save(result.output_dir)
        screen.say(best.reason, f"look at it: {best.page}")
    if run.repository is not None:
        save.upload(run.config, run.repository, [path.name for path in result.model], card)
    return replace(result, best_checkpoint=best.folder if best else None)


def _start_output(run: Setup, output: Path) -> None:
    """Write the config, the manifest and the sheet of masks."""
    checkpoint.clear_leftovers(output)
    if run.resume_from is None:
        run.config.save(output / CONFIG_NAME)
    write_manifest(output / MANIFEST_NAME, run.manifest)
    mask_report.save_sheet(run.masks, output)
    if run.masks:
        screen.say(*mask_report.summary(run.masks).splitlines(), f"look at them: {output / mask_report.MASKS_NAME}")


def _prepare(run: Setup, family: Family, callbacks: TrainingCallbacks) -> tuple[Training, checkpoint.Progress]:
    """Build loader, optimizer and scheduler, hand them to Accelerate, and load the checkpoint to resume from."""
    config, accelerator, settings = run.config, run.accelerator, run.config.optimization
    precision = PRECISIONS.get(accelerator.mixed_precision, torch.float32)
    family.place(accelerator.device, precision, distributed.staging_device(accelerator, config))
    loader = build_loader(run, family)
    distributed.sync_initial_weights(_trained(family), accelerator)
    if settings.torch_compile:
        for part in family.trained().values():
            compile_blocks(part)
    optimizer = build_optimizer(
        _trained(family),
        settings,
        config.data.train_batch_size * accelerator.num_processes,
        _weights(list(family.trained().values())[1:]),
        apart=config.model.train_text_encoder_ti,
    )
    steps = count_steps(settings, len(loader), accelerator.num_processes)
    share = config.model.train_text_encoder_ti_frac
    scheduler = build_scheduler(optimizer, settings, steps, accelerator.num_processes, share)
    if config.validation.choose_checkpoint:
        best_checkpoint.check_number(config, steps)
    stream = stream_of(loader)
    remarks.few_steps(config, steps, len(run.instances))
    an_epoch = steps_in_an_epoch(settings, len(loader), accelerator.num_processes)
    head = summary.lines(run, family, steps, an_epoch)
    names = list(family.trained())
    *modules, optimizer, loader, scheduler = accelerator.prepare(
        *family.trained().values(), optimizer, loader, scheduler
    )
    family.replace(dict(zip(names, modules, strict=True)))
    parameters = _trained(family)  # FSDP replaces them by shards
    accelerator.init_trackers("dreambooth", config=tracking.loggable(config))
    average = build_average(parameters, settings)
    checkpoint.register(accelerator, family, average)
    progress = _resume(run, optimizer, scheduler, steps)
    screen.say(*head, summary.begins(run.resume_from, progress.step))
    metrics = MetricsFile(Path(config.output.output_dir) if accelerator.is_main_process else None, progress.step)
    epochs, draws = config.validation.validation_epochs, config.mask.cache_background_prior
    training = Training(
        config=config,
        accelerator=accelerator,
        family=family,
        loader=loader,
        optimizer=optimizer,
        scheduler=scheduler,
        parameters=parameters,
        steps=steps,
        drawn_every=epochs * an_epoch if epochs else config.validation.validation_steps,
        stream=stream,
        average=average,
        metrics=metrics,
        flat=FlatLoss(),
        callbacks=callbacks,
        likeness=run.likeness,
        bank=None if draws is None else PriorBank(draws, settings.seed or 0),
    )
    return training, progress


def _resume(run: Setup, optimizer: Any, scheduler: Any, steps: int) -> checkpoint.Progress:
    """Load the checkpoint, if there is one to resume from; learning rate and betas are the new run's."""
    if run.resume_from is None:
        return checkpoint.Progress()
    rates = Settings.of(optimizer, scheduler)
    progress = checkpoint.load_checkpoint(run.accelerator, run.resume_from)
    rates.apply(optimizer, scheduler)
    checkpoint.check_step(progress, steps, run.resume_from)
    if run.accelerator.is_main_process:
        run.config.save(Path(run.config.output.output_dir) / CONFIG_NAME)  # not before the checkpoint was accepted
    return progress


def _trained(family: Family) -> list[nn.Parameter]:
    return _weights(family.trained().values())


def _weights(parts: Iterable[nn.Module]) -> list[nn.Parameter]:
    return [weight for part in parts for weight in part.parameters() if weight.requires_grad]


def _save_result(
    training: Training, progress: checkpoint.Progress, run: Setup, stop: StopSignal
) -> tuple[list[str], list[Path], Card | None]:
    """Draw the last validation pictures, save the model and its card, upload them if wanted.

    Returns:
        Names of the model's files and folders, the pictures, and the card; none of them but in the first process.
    """
    config, accelerator = training.config, training.accelerator
    accelerator.wait_for_everyone()
    family = distributed.whole(training.family, accelerator, config)
    if family is None:
        return [], [], None
    output = Path(config.output.output_dir)
    pictures = validate(family, config, accelerator, progress.step, config.validation.last_prompts)
    screen.say(*screen.drawn_in_words(pictures))
    measure(training, progress.step, pictures)
    card = Card(config, run.concepts, run.masks, pictures, type(family).__name__)
    model = save.save_model(family, config, lora_metadata.describe(family, config, run.concepts, run.instances))
    card.save(output)
    if run.repository is not None and not config.validation.choose_checkpoint:
        save.upload(config, run.repository, model, card)
    if pictures:
        stop.call(training.callbacks.on_validation, pictures)
    return model, pictures, card
