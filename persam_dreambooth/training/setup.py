"""Check and prepare everything before the first step: settings, devices, photos, masks, class images, base model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration, set_seed

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import ManifestEntry
from persam_dreambooth.training import objective
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data import dataset_copy, remarks
from persam_dreambooth.training.data.caption_check import check_captions, check_new_words
from persam_dreambooth.training.data.class_images import PRECISIONS, check_class_folders, ensure_class_images
from persam_dreambooth.training.data.concepts import Concept, read_concepts
from persam_dreambooth.training.data.crops import Size, bucket_sizes
from persam_dreambooth.training.data.dataset import InstancePhoto
from persam_dreambooth.training.data.instances import find_instances
from persam_dreambooth.training.data.mask_folders import segment_first
from persam_dreambooth.training.data.mask_report import CheckedMask, check_masks
from persam_dreambooth.training.data.samples import FreshSamples
from persam_dreambooth.training.families import Family, check_base_model, load_family, quantized
from persam_dreambooth.training.output import best_checkpoint, save
from persam_dreambooth.training.runtime import distributed, optimizer, resuming, tracking, workers
from persam_dreambooth.training.runtime.likeness import Likeness
from persam_dreambooth.training.screen import say


@dataclass
class Setup:
    """A checked run, ready to train.

    Attributes:
        config: all settings.
        accelerator: devices and processes.
        concepts: the subjects.
        instances: all photos to train on.
        read: cuts samples out of photos and masks.
        manifest: lines for the output's `manifest.jsonl`.
        masks: a check of each mask.
        class_images: files for each subject.
        likeness: measures validation pictures; None if they are not to be measured.
        repository: name on the hub; None unless it is pushed.
        resume_from: checkpoint to resume from.
    """

    config: TrainingConfig
    accelerator: Accelerator
    concepts: list[Concept]
    instances: list[InstancePhoto]
    read: FreshSamples
    manifest: list[ManifestEntry]
    masks: list[CheckedMask]
    class_images: list[list[Path]]
    likeness: Likeness | None
    repository: str | None
    resume_from: Path | None


def setup(config: TrainingConfig) -> Setup:
    """Check the settings against files and devices; find or make masks and class images.

    Raises:
        UserError: a mistake of the user's.
    """
    resume_from = resuming.choose_start(config)
    kind = check_base_model(config.model)
    kind.check(config)
    cell, unit = kind.cell_of(config.model), kind.side_unit_of(config.model)
    if config.data.resolution % unit:
        nearest = max(unit, config.data.resolution // unit * unit)
        raise UserError(
            f"--resolution {config.data.resolution} is not a multiple of {unit}, the pixels of one latent cell or "
            f"patch; take {nearest}"
        )
    sizes = bucket_sizes(config.data, unit)
    workers.check_open_files(config.data.dataloader_num_workers)
    if config.data.training_cache:
        files.check_output_folder(Path(config.data.training_cache))
    read = FreshSamples(config.data)
    for picture in read.backgrounds:
        files.read_photo(picture)  # fail on a damaged file now, not in the middle of training
    optimizer.check(config.optimization)
    accelerator = _accelerator(config)
    quantized.check(config.model, accelerator.device)
    if resume_from and (changed := resuming.changed_flags(config)):
        say(f"flags changed since {resume_from}: {changed}")
    if config.output.resume_from_checkpoint and resume_from is None:
        say(f"no checkpoint in {config.output.output_dir} yet: the run starts from the beginning")
    concepts = read_concepts(config)
    remarks.uneven_resolution(config, kind.even_unit_of(config.model))
    remarks.without_identifier(concepts)
    check_class_folders(concepts)
    found, manifest = _find_photos(config, concepts, sizes, accelerator, kind)
    check_new_words(concepts, found, config.model.new_words)
    check_captions(concepts, found, manifest, config)
    masks = check_masks(found, config, cell)
    if config.validation.choose_checkpoint:
        best_checkpoint.check(config, concepts[0], distributed.shares_weights(accelerator))
    likeness = Likeness.of(config, found, accelerator.device)
    if likeness is not None and accelerator.is_main_process:
        likeness.check()
    repository = save.claim_repository(config) if accelerator.is_main_process else None
    class_images = [ensure_class_images(concept, config, accelerator) for concept in concepts]
    return Setup(
        config,
        accelerator,
        concepts,
        found,
        read,
        manifest,
        masks,
        class_images,
        likeness,
        repository,
        resume_from,
    )


def load_base(run: Setup) -> Family:
    """Seed the random generators and load the base model, with a frozen copy for the background prior."""
    settings = run.config.optimization
    if settings.seed is not None:
        # Each process has its own seed and noise; the first process's seed is the one that a single process has.
        set_seed(settings.seed, device_specific=True)
    torch.backends.cuda.matmul.allow_tf32 |= settings.allow_tf32
    precision = PRECISIONS.get(run.accelerator.mixed_precision, torch.float32)
    family = load_family(run.config.model, precision)
    if run.config.mask.background_prior_weight > 0:
        family.keep_base()
    return family


def _accelerator(config: TrainingConfig) -> Accelerator:
    """Create the accelerator; refuse devices and settings with which this training cannot run."""
    output = Path(config.output.output_dir)
    # SDXL and SD 3 do not use the last layers of their text encoders, which DDP would report as an error.
    unused = DistributedDataParallelKwargs(find_unused_parameters=config.model.train_text_encoder)
    accelerator = Accelerator(
        # The other processes wait for the first one's masks, class images and latents, possibly for hours.
        kwargs_handlers=[unused, InitProcessGroupKwargs(timeout=timedelta(hours=24))],
        gradient_accumulation_steps=config.optimization.gradient_accumulation_steps,
        mixed_precision=config.optimization.mixed_precision,
        log_with=tracking.log_with(config.output.report_to),
        project_config=ProjectConfiguration(
            project_dir=str(output), logging_dir=str(output / config.output.logging_dir)
        ),
    )
    fsdp = accelerator.state.fsdp_plugin if distributed.shares_weights(accelerator) else None
    distributed.check(config, accelerator.state.deepspeed_plugin, fsdp)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("--mixed_precision fp16 needs a GPU; on a CPU take bf16 or no")
    remarks.slow_bfloat16(accelerator.mixed_precision, accelerator.device)
    return accelerator


def _find_photos(
    config: TrainingConfig,
    concepts: Sequence[Concept],
    sizes: Sequence[Size],
    accelerator: Accelerator,
    kind: type[Family],
) -> tuple[list[InstancePhoto], list[ManifestEntry]]:
    """Find the photos of all subjects, after making masks from references; return them and their manifest."""
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            dataset_copy.copy(config)
            for concept in concepts:
                with _naming(concept):
                    segment_first(concept, config, accelerator.device)
    instances, manifest = list[InstancePhoto](), list[ManifestEntry]()
    for number, concept in enumerate(concepts):
        with _naming(concept):
            found = find_instances(concept, config, sizes)
        instances += [replace(instance, concept=number) for instance in found.instances]
        manifest += found.manifest
    if config.mask.attention_loss_weight > 0:
        instances = objective.with_places(instances, concepts, kind, config.model)
    return instances, manifest


@contextmanager
def _naming(concept: Concept) -> Iterator[None]:
    """Name the subject in an error if there are several."""
    try:
        yield
    except UserError as error:
        if not concept.name:
            raise
        raise UserError(f"subject {concept.name}: {error}") from error
