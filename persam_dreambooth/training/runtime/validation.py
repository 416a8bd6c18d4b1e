"""Validation pictures, drawn with the model during training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from persam_dreambooth import long_prompts
from persam_dreambooth.photos import files
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.families import Family

VALIDATION_FOLDER = "validation"
INFERENCE_STEPS = 25


@torch.no_grad()
def validate(
    family: Family, config: TrainingConfig, accelerator: Accelerator, step: int, prompt: str | None
) -> list[Path]:
    """Generate pictures for a prompt, save them and send them to the trackers.

    The seed is the same each time, so that pictures of different steps can be compared; training's random state
    is not changed.

    Returns:
        The files, `validation/step-STEP-NUMBER.png`; none without a prompt.
    """
    validation = config.validation
    if not prompt:
        return []
    pipeline = family.pipeline()
    pipeline.scheduler = family.sampler(validation.validation_scheduler, pipeline.scheduler.config)
    pipeline.to(accelerator.device)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator(accelerator.device).manual_seed(config.optimization.seed or 0)
    with _evaluating([*pipeline.components.values(), *family.trained().values()]), accelerator.autocast():
        # By name: Flux.2's first argument is a picture.
        named = long_prompts.arguments(pipeline, prompt, None, config.model.max_token_length)
        images = [
            pipeline(
                **named,
                height=config.data.resolution,
                width=config.data.resolution,
                num_inference_steps=INFERENCE_STEPS,
                generator=generator,
                **family.drawing,
            ).images[0]
            for _ in range(validation.num_validation_images)
        ]
    if config.data.cache_latents:
        family.stow_autoencoder()  # the pipeline has moved it back to the device
    _track(images, prompt, accelerator, step)
    folder = Path(config.output.output_dir) / VALIDATION_FOLDER
    paths = [folder / f"step-{step:06d}-{number}.png" for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        files.write_picture(image, path)
    return paths


@contextmanager
def _evaluating(parts: Sequence[Any]) -> Iterator[None]:
    """Put all modules among `parts` into eval mode inside the block; restores the mode of each layer afterwards."""
    modules = [part for part in parts if isinstance(part, nn.Module)]
    modes = {layer: layer.training for module in modules for layer in module.modules()}
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for layer, training in modes.items():
            layer.training = training


def _track(images: list[Image.Image], prompt: str, accelerator: Accelerator, step: int) -> None:
    """Log the pictures to tensorboard and wandb."""
    for tracker in accelerator.trackers:
        if tracker.name in ("tensorboard", "wandb"):
            arrays = np.stack([np.asarray(image) for image in images])
            values = {"validation": arrays} if tracker.name == "tensorboard" else {prompt: images}
            extra = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images(values, step=step, **extra)
