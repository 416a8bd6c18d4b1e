"""A whole run: `setup` checks, `main` builds, `fit` trains, and the model is saved."""

from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch import nn

from persam_dreambooth.errors import Stopped
from persam_dreambooth.photos.manifest import MANIFEST_NAME, write_manifest
from persam_dreambooth.training import screen, summary
from persam_dreambooth.training.callbacks import TrainingCallbacks
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data import mask_report, remarks
from persam_dreambooth.training.data.class_images import PRECISIONS
from persam_dreambooth.training.families import Family, load_family
from persam_dreambooth.training.loader import build_loader, stream_of
from persam_dreambooth.training.loop import Training, fit
from persam_dreambooth.training.output import save
from persam_dreambooth.training.output.model_card import Card
from persam_dreambooth.training.result import TrainingResult
from persam_dreambooth.training.runtime import checkpoint, distributed, memory, resuming, tracking, workers
from persam_dreambooth.training.runtime.ema import averaged, build_average
from persam_dreambooth.training.runtime.interrupts import StopSignal
from persam_dreambooth.training.runtime.optimizer import (
    Settings,
    build_optimizer,
    build_scheduler,
    count_steps,
    steps_in_an_epoch,
)
from persam_dreambooth.training.runtime.process_state import own_state
from persam_dreambooth.training.runtime.validation import validate
from persam_dreambooth.training.setup import Setup, setup


def train(config: TrainingConfig, *, callbacks: TrainingCallbacks | None = None) -> TrainingResult:
    """Train a model on photos and their masks; the same as `persam-dreambooth train`.

    May be called several times in one process, in a notebook and in any thread, one training at a time: each run
    begins as in a new process, and Accelerate's state is afterwards what it was before. The random numbers of
    Python, NumPy and torch are seeded by `config.optimization.seed`. In the main thread
    SIGTERM and SIGINT (Ctrl-C, a notebook's stop button) end the run after its step; in others no
    signal is touched.

    Args:
        config: all settings.
        callbacks: what to call after a step, a checkpoint and validation pictures.

    Returns:
        Where the model lies, once it is saved; the last losses and the number of steps.

    Raises:
        UserError: what the user can mend, before the first step wherever it can be known then; the message names
            settings by their flags.
        Stopped: SIGTERM or SIGINT came while it trained; a checkpoint is written, and the same config with
            `resume_from_checkpoint="latest"` goes on.
        Exception: whatever a callback raised, likewise.
    """
    with own_state(), memory.explained(config), workers.explained(), screen.quiet():
        return main(setup(config), callbacks or TrainingCallbacks())


def main(run: Setup, callbacks: TrainingCallbacks) -> TrainingResult:
    """Load the model, and with the output folder to itself build the rest, train, save."""
    config, settings = run.config, run.config.optimization
    if settings.seed is not None:
        # Processes differ, so that each draws its own noise; the first one is what a single one would be.
        set_seed(settings.seed, device_specific=True)
    torch.backends.cuda.matmul.allow_tf32 |= settings.allow_tf32
    family = load_family(config.model)
    if config.mask.background_prior_weight > 0:
        family.keep_base()
    with resuming.alone(config, run.resume_from) if run.accelerator.is_main_process else nullcontext():
        return _train(run, family, callbacks)


def _train(run: Setup, family: Family, callbacks: TrainingCallbacks) -> TrainingResult:
    config, accelerator = run.config, run.accelerator
    settings, output = config.optimization, Path(config.output.output_dir)
    if accelerator.is_main_process:
        checkpoint.clear_leftovers(output)
        if run.resume_from is None:
            config.save(output)
        write_manifest(output / MANIFEST_NAME, run.manifest)
        mask_report.save_sheet(run.masks, output)
        if run.masks:
            screen.say(
                *mask_report.summary(run.masks).splitlines(), f"look at them: {output / mask_report.MASKS_NAME}"
            )
    precision = PRECISIONS.get(accelerator.mixed_precision, torch.float32)
    family.place(accelerator.device, precision, distributed.staging_device(accelerator))
    loader = build_loader(run, family)
    batch = config.data.train_batch_size * accelerator.num_processes
    distributed.sync_initial_weights(_trained(family), accelerator)
    optimizer = build_optimizer(_trained(family), settings, batch)
    steps = count_steps(settings, len(loader), accelerator.num_processes)
    scheduler = build_scheduler(optimizer, settings, steps, accelerator.num_processes)
    stream = stream_of(loader)
    remarks.few_steps(config, steps, len(run.instances))
    head = summary.lines(run, family, steps, steps_in_an_epoch(settings, len(loader), accelerator.num_processes))
    names = list(family.trained())
    *modules, optimizer, loader, scheduler = accelerator.prepare(
        *family.trained().values(), optimizer, loader, scheduler
    )
    family.replace(dict(zip(names, modules, strict=True)))
    parameters = _trained(family)  # others than before, where FSDP shares them out
    accelerator.init_trackers("dreambooth", config=tracking.loggable(config))
    average = build_average(parameters, settings)
    checkpoint.register(accelerator, family, average)
    progress = checkpoint.Progress()
    if run.resume_from is not None:
        rates = Settings.of(optimizer, scheduler)
        progress = checkpoint.load_checkpoint(accelerator, run.resume_from)
        rates.apply(optimizer, scheduler)
        checkpoint.check_step(progress, steps, run.resume_from)
        if accelerator.is_main_process:
            config.save(output)  # only now is it what the run goes on with
    screen.say(*head, summary.begins(run.resume_from, progress.step))
    training = Training(
        config, accelerator, family, loader, optimizer, scheduler, parameters, steps, stream, average, callbacks
    )
    with StopSignal(speaks=accelerator.is_main_process) as stop:
        try:
            losses = fit(training, progress, stop)
            with averaged(average, parameters):
                model, pictures = _save_result(training, progress, run, stop)
        except Exception as error:
            together = isinstance(error, Stopped) or error is stop.error
            if together or accelerator.num_processes == 1:  # alone it would wait for the others
                accelerator.end_training()
            raise
    accelerator.end_training()
    if stop.error is not None:
        stop.error.add_note(f"the training took its last step, and its model is in {output}")
        raise stop.error
    return TrainingResult(output, model, pictures, checkpoint.checkpoints(output), progress.step, losses)


def _trained(family: Family) -> list[nn.Parameter]:
    return [one for part in family.trained().values() for one in part.parameters() if one.requires_grad]


def _save_result(
    training: Training, progress: checkpoint.Progress, run: Setup, stop: StopSignal
) -> tuple[list[Path], list[Path]]:
    """The last validation pictures, the model, its card, and the upload.

    Returns:
        The model's files and folders, and the pictures; none in every process but the first.
    """
    config, accelerator = training.config, training.accelerator
    accelerator.wait_for_everyone()
    family = distributed.whole(training.family, accelerator, config)
    if family is None:
        return [], []
    output = Path(config.output.output_dir)
    pictures = validate(family, config, accelerator, progress.step)
    screen.say(*screen.drawn_in_words(pictures))
    card = Card(config, run.concepts, run.masks, pictures, type(family).__name__)
    model = save.save_model(family, config)
    card.save(output)
    if run.repository is not None:
        save.upload(config, run.repository, model, card)
    if pictures:
        stop.call(training.callbacks.on_validation, pictures)
    return [output / name for name in model], pictures
