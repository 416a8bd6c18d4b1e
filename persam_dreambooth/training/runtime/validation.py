"""Validation pictures, drawn with the model during training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ValidationPicture:
    """A picture drawn during training."""

    image: Image.Image
    prompt: str
    seed: int


@torch.no_grad()
def validate(
    family: Family, config: TrainingConfig, accelerator: Accelerator, step: int, prompts: Sequence[str]
) -> list[Path]:
    """Generate pictures for some validation prompts, save them and send them to the trackers.

    Picture i of each prompt has the seed `--seed` + i at each step, so that pictures of different steps can be
    compared, and `generate --seed` with the same sampler draws them again. Training's random state is not changed.

    Returns:
        The files, prompt by prompt: `validation/step-STEP-SEED.png`, with several prompts
        `validation/step-STEP-PROMPT-SEED.png`, prompts counted from 1. Step, prompt and seed are also in the PNG's
        text entries. None without a prompt.
    """
    validation = config.validation
    if not prompts:
        return []
    pipeline = family.pipeline()
    pipeline.scheduler = family.sampler(validation.validation_scheduler, pipeline.scheduler.config)
    pipeline.to(accelerator.device)
    pipeline.set_progress_bar_config(disable=True)
    paths = picture_files(config, prompts, step)
    parts = [*pipeline.components.values(), *family.trained().values()]
    with _evaluating(parts), _uncompiled(config), accelerator.autocast():
        pictures = [
            ValidationPicture(_draw(pipeline, prompt, seed, config, family.drawing), prompt, seed)
            for prompt in prompts
            for seed in _seeds(config)
        ]
    if config.data.cache_latents or config.model.offload:  # the pipeline has moved them to the device
        family.stow("vae", *(family.encoders if config.model.offload else ()))
    _track(pictures, accelerator, step)
    for picture, path in zip(pictures, paths, strict=True):
        files.write_picture(
            picture.image, path, {"prompt": picture.prompt, "seed": str(picture.seed), "step": str(step)}
        )
    return paths


def picture_files(config: TrainingConfig, prompts: Sequence[str], step: int) -> list[Path]:
    """Return the files of a step's pictures, prompt by prompt, whether or not they exist."""
    folder = Path(config.output.output_dir) / VALIDATION_FOLDER
    numbers = [f"{number}-" for number in range(1, len(prompts) + 1)] if len(prompts) > 1 else [""] * len(prompts)
    return [folder / f"step-{step:06d}-{number}{seed}.png" for number in numbers for seed in _seeds(config)]


def _seeds(config: TrainingConfig) -> range:
    """Return the seeds of each prompt's pictures."""
    first = config.optimization.seed or 0
    return range(first, first + config.validation.num_validation_images)


def _draw(pipeline: Any, prompt: str, seed: int, config: TrainingConfig, drawing: Mapping[str, Any]) -> Image.Image:
    side = config.data.resolution
    # By name: Flux.2's first argument is a picture.
    named = long_prompts.arguments(pipeline, prompt, None, config.model.max_token_length)
    image: Image.Image = pipeline(
        **named,
        height=side,
        width=side,
        num_inference_steps=INFERENCE_STEPS,
        generator=torch.Generator(pipeline.device).manual_seed(seed),
        **drawing,
    ).images[0]
    return image


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


def _uncompiled(config: TrainingConfig) -> AbstractContextManager[Any]:
    """Run the blocks of `--torch_compile` uncompiled, since compiling them for other shapes would take longer."""
    return torch.compiler.set_stance("force_eager") if config.optimization.torch_compile else nullcontext()


def _track(pictures: Sequence[ValidationPicture], accelerator: Accelerator, step: int) -> None:
    """Log the pictures to tensorboard and wandb."""
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            arrays = np.stack([np.asarray(picture.image) for picture in pictures])
            tracker.log_images({"validation": arrays}, step=step, dataformats="NHWC")
        elif tracker.name == "wandb":
            by_prompt: dict[str, list[Image.Image]] = {}
            for picture in pictures:
                by_prompt.setdefault(picture.prompt, []).append(picture.image)
            tracker.log_images(by_prompt, step=step)
