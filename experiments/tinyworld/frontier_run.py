"""One run of the frontier: a subject is trained in one way, and images are generated at every training length."""

import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from albums import Album
from arms import Recipe, arms
from confounds import CONFOUNDS, Subject, everywhere
from dreambooth import train
from models import DIFFUSION
from persam_dreambooth.photos import files, rendering

LENGTHS = (25, 50, 100, 200, 400, 800)
"""The numbers of steps after which a training is judged."""
SCENELESS = 4
"""Images of the prompt without a scene, per image of a prompt with one."""
ORACLE, BASE = "oracle", "base"


@dataclass(frozen=True)
class Job:
    """One run: a subject under a confound, trained in one way.

    Attributes:
        subject: the subject.
        confound: a key of `CONFOUNDS`; the oracle and the base model have none ("").
        arm: a letter of `experiment.arms`, `ORACLE` or `BASE`.
        seed: for the trainer and the images' noise.
        recipe: the settings that all runs share.
        output: the folder of all runs.
    """

    subject: Subject
    confound: str
    arm: str
    seed: int
    recipe: Recipe
    output: Path

    @property
    def folder(self) -> Path:
        """The folder of its images; the settings are part of the name, so one output folder holds several."""
        recipe = self.recipe
        kind = f"lora{recipe.lora_rank}" if recipe.lora_rank else "full"
        settings = BASE if self.arm == BASE else f"{kind}-{recipe.learning_rate:g}"
        return (
            self.output / "runs" / settings / f"{self.confound or 'none'}-{self.arm}-{self.seed}-{self.subject.name}"
        )

    @property
    def row(self) -> str:
        """Its row in the tables: the arm and its learning rate, such as "a 0.002"."""
        return self.arm if self.arm in (BASE, ORACLE) else f"{self.arm} {self.recipe.learning_rate:g}"

    @property
    def lengths(self) -> list[int]:
        """The numbers of steps after which it is judged."""
        return [0] if self.arm == BASE else [length for length in LENGTHS if length <= self.recipe.steps]

    def pictures(self, length: int) -> Path:
        """The strip of all images generated after `length` steps."""
        return self.folder / f"{length:03}.png"

    def is_done(self) -> bool:
        """Whether all its images exist."""
        return all(self.pictures(length).exists() for length in self.lengths)

    def album(self) -> Album:
        """The subject's photos."""
        return CONFOUNDS[self.confound](self.subject) if self.confound else everywhere(self.subject)

    def prompts(self) -> list[str]:
        """One prompt per image: every scene but the photos' own, then no scene."""
        identifier, count = "" if self.arm == BASE else "sks ", self.recipe.pictures
        album = self.album()
        scenes = [scene for scene in album.other_scenes for _ in range(count)]
        return [*album.prompts(scenes, identifier), *[f"a {identifier}{album.identity.kind}"] * (SCENELESS * count)]


def run(job: Job) -> None:
    """Train, then generate images at every length; in its own process."""
    torch.set_num_threads(1)
    training = job.folder / "training"
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / "log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        if job.arm != BASE:
            arm = arms(job.recipe)["a" if job.arm == ORACLE else job.arm]
            flags = (*arm.flags, "--checkpointing_steps", str(LENGTHS[0]))
            train(job.album(), replace(arm, flags=flags), job.seed, job.recipe, training, prepared(job))
        for length in job.lengths:
            pipeline = trained_model(training / "model", length, job) if length else base_model()
            files.write_picture(rendering.joined(draw(pipeline, job), across=True), job.pictures(length))
        shutil.rmtree(training, ignore_errors=True)


def prepared(job: Job) -> Path:
    """Return the folder of the album's photos and masks."""
    return job.output / "albums" / f"{job.confound or 'none'}-{job.subject.name}"


def base_model() -> Any:
    """Load the base model's pipeline, with the sampler that all images here use."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(DIFFUSION, dtype=torch.float32)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def trained_model(model: Path, length: int, job: Job) -> Any:
    """Load the pipeline of a run as it was after `length` steps."""
    folder = model if length == job.recipe.steps else model / f"checkpoint-{length}"
    pipeline = base_model()
    if job.recipe.lora_rank:
        pipeline.load_lora_weights(folder)
    else:
        pipeline.unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32)
    pipeline.unet.eval()
    return pipeline


def draw(pipeline: Any, job: Job) -> list[Image.Image]:
    """Generate an image for each of the job's prompts; the noise depends only on the seed, not on arm or length."""
    prompts = job.prompts()
    noise = [torch.Generator().manual_seed(1000 * job.seed + number) for number in range(len(prompts))]
    steps, scale = job.recipe.inference_steps, job.recipe.guidance_scale
    images: list[Image.Image] = pipeline(
        prompts, generator=noise, num_inference_steps=steps, guidance_scale=scale
    ).images
    return images
