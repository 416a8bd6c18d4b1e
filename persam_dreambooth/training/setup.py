"""Everything that can be known, and can fail, before a model is loaded."""

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.manifest import ManifestEntry
from persam_dreambooth.training import instances, optimization, result, resuming, tracking
from persam_dreambooth.training.class_images import ensure_class_images
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data import InstancePhoto
from persam_dreambooth.training.families import check_base_model


@dataclass
class Setup:
    """What `setup` found out: what `main` builds on."""

    config: TrainingConfig
    accelerator: Accelerator
    instances: list[InstancePhoto]
    manifest: list[ManifestEntry]
    coverage: dict[Path, float]
    class_images: list[Path]
    repository: str | None
    resume_from: Path | None


def setup(config: TrainingConfig) -> Setup:
    """Check the flags against the world, find or make masks and class images."""
    output = Path(config.output.output_dir)
    resume_from = resuming.choose_start(config)
    cell = check_base_model(config.model).cell_of(config.model)
    if config.data.resolution % cell:
        nearest = max(cell, config.data.resolution // cell * cell)
        raise UserError(
            f"--resolution {config.data.resolution} is no multiple of {cell}, the pixels of one latent cell; "
            f"take {nearest}"
        )
    optimization.check(config.optimization)
    accelerator = Accelerator(
        gradient_accumulation_steps=config.optimization.gradient_accumulation_steps,
        mixed_precision=config.optimization.mixed_precision,
        dynamo_backend="inductor" if config.optimization.torch_compile else None,
        log_with=tracking.log_with(config.output.report_to),
        project_config=ProjectConfiguration(
            project_dir=str(output), logging_dir=str(output / config.output.logging_dir)
        ),
    )
    if config.output.resume_from_checkpoint and resume_from is None:
        accelerator.print(f"no checkpoint in {output} yet: the run begins anew")
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("--mixed_precision fp16 needs a GPU; on a CPU take bf16 or no")
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            instances.segment_first(config, accelerator.device)
    found, left_out = instances.find_instances(config)
    coverage = instances.check_latent_masks(found, config, cell)
    manifest = instances.describe(found, left_out, config)
    repository = result.claim_repository(config) if accelerator.is_main_process else None
    class_images = ensure_class_images(config, accelerator)
    return Setup(config, accelerator, found, manifest, coverage, class_images, repository, resume_from)
