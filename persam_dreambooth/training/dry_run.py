"""A dry run: everything before the first step, the memory estimated, the first batch drawn, and nothing trained."""

import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from persam_dreambooth.photos import files, rendering
from persam_dreambooth.training import memory, screen, summary
from persam_dreambooth.training.config import MaskConfig, TrainingConfig
from persam_dreambooth.training.data import mask_report, remarks
from persam_dreambooth.training.data.class_images import PRECISIONS
from persam_dreambooth.training.data.dataset import Batch
from persam_dreambooth.training.data.mask_report import MASKS_NAME, subject_cells
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.loader import build_loader, remaining_batches, stream_of
from persam_dreambooth.training.runtime import resuming
from persam_dreambooth.training.runtime.checkpoint import Progress
from persam_dreambooth.training.runtime.optimizer import build_optimizer, count_steps, steps_in_an_epoch
from persam_dreambooth.training.setup import Setup, load_base, setup


def dry_run(config: TrainingConfig) -> None:
    """Check a run without training, and print what it would do.

    Masks that a run makes itself (`--reference_image`) and copies of data sets are made in a temporary folder. Only
    `masks.png`, the first batch, is written to the output folder. Class images are not generated, nothing is encoded
    into a cache, and the hub's repository is not created.

    Raises:
        UserError: what the run itself would raise before its first step.
    """
    start = resuming.choose_start(config)
    with tempfile.TemporaryDirectory() as scratch:
        run = setup(_in_scratch(config, scratch))
        family = load_base(run)
        family.place(torch.device("cpu"), PRECISIONS.get(run.accelerator.mixed_precision, torch.float32))
        batch, lines = _first_batch(run, family)
        screen.say(*mask_report.summary(run.masks).splitlines(), *lines, *memory.lines(family, config, batch))
        is_main = run.accelerator.is_main_process
        with resuming.alone(config, start) if is_main else nullcontext():
            if is_main:
                cell = family.cell_of(config.model)
                path = save_batch_sheet(batch, config.mask, cell, Path(config.output.output_dir))
                screen.say(f"the first batch: {path}")
    screen.say("dry run: nothing was trained")


def _in_scratch(config: TrainingConfig, scratch: str) -> TrainingConfig:
    """Return the config of a run that writes only into a temporary folder, and nothing to the hub."""
    own: dict[str, Any] = {
        "output_dir": scratch,
        "resume_from_checkpoint": None,
        "push_to_hub": False,
        "push_masks_to_hub": False,
    }
    return replace(config, output=replace(config.output, **own))


def _first_batch(run: Setup, family: Family) -> tuple[Batch, list[str]]:
    """Return the batch that training would begin with, and the summary of the run.

    Caches are off. Class images are left out unless all are there, and the batch is that of training only if they are.
    """
    config, accelerator = run.config, run.accelerator
    fresh = replace(
        config,
        model=replace(config.model, pre_compute_text_embeddings=False),
        data=replace(config.data, cache_latents=False, training_cache=None),
        mask=replace(config.mask, cache_background_prior=None),
    )
    wanted = sum(concept.num_class_images for concept in run.concepts)
    images = run.class_images if sum(map(len, run.class_images)) == wanted else []
    loader = build_loader(replace(run, config=fresh, class_images=images), family)
    # Built only to check its settings; it takes no memory, since its states are allocated in the first step.
    build_optimizer([torch.nn.Parameter(torch.zeros(1))], config.optimization, config.data.train_batch_size)
    steps = count_steps(config.optimization, len(loader), accelerator.num_processes)
    remarks.few_steps(config, steps, len(run.instances))
    epoch = steps_in_an_epoch(config.optimization, len(loader), accelerator.num_processes)
    lines = summary.lines(run, family, steps, epoch)
    batch = next(remaining_batches(accelerator.prepare(loader), Progress(), stream_of(loader)))
    return batch, lines


def save_batch_sheet(batch: Batch, config: MaskConfig, cell: int, output: Path) -> Path:
    """Draw a batch as `masks.png`: each crop under each of its masks, beside the weight of each latent cell.

    Args:
        batch: holds pixels, not latents.
        config: how masks become latent masks.
        cell: side of a latent cell in pixels.
        output: the folder.

    Returns:
        The path of `masks.png`.
    """
    assert batch.pixels is not None, "a batch holds pixels or moments"
    count = len(batch.mask)
    latent = subject_cells(batch.mask, batch.exclude, config, cell)
    own = batch.mask if batch.regions is None else batch.regions
    regions = own.split([max(1, len(places)) for places in batch.places])
    pictures = [
        rendering.joined([*(_crop(pixels, mask) for mask in masks), _cells(weights, masks[0])], across=True)
        for pixels, masks, weights in zip(batch.pixels[:count], regions, latent, strict=True)
    ]
    captions = [
        f"{name}  {weights.mean():.0%} of its crop" for name, weights in zip(batch.photos, latent, strict=True)
    ]
    sheet = rendering.sheet(pictures, captions, columns=min(3, count), tile=2 * rendering.TILE)
    files.write_picture(sheet, output / MASKS_NAME)
    return output / MASKS_NAME


def _crop(pixels: Tensor, mask: Tensor) -> Image.Image:
    """Draw a mask, (1, h, w) in [0, 1], over its crop, (3, h, w) in [-1, 1]."""
    picture = F.to_pil_image((pixels.cpu() + 1) / 2)
    return rendering.overlay(picture, mask[0].cpu().numpy() > 0)


def _cells(weights: Tensor, mask: Tensor) -> Image.Image:
    """Draw the weights of the latent cells, (1, h', w') in [0, 1], at the size of the mask, (1, h, w)."""
    return rendering.latent_cells(weights[0].cpu().numpy(), (mask.shape[-1], mask.shape[-2])).convert("RGB")
