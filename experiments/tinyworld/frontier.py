"""Gain and cost of masks along the whole frontier: every way of training is judged at six lengths.

    python experiments/tinyworld/frontier.py --output frontier --cast reported --lora_rank 4

Every subject's photos have something in common beside the subject (`confounds.py`): one background, or one companion.
Each run uses the real trainer, and the images of its checkpoints are judged. It writes `results.json`, `table.md`,
`frontier.png` and sheets for a blind comparison. Interrupted, the command resumes after the last finished run.
"""

import argparse
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tqdm import tqdm

from albums import Album, save_album
from arms import CLASS_IMAGES, Recipe, arms
from confounds import CONFOUNDS, Subject, choosing, everywhere, reported
from dreambooth import prepare, train
from models import DIFFUSION
from persam_dreambooth.photos import files, rendering

LENGTHS = (25, 50, 100, 200, 400, 800)
RATE = 1.8e-4
"""Learning rate of the arms for which none is given."""
SCENELESS = 4
"""Images of the prompt without a scene, per image of a prompt with one."""
INFERENCE_STEPS = 12
"""Sampling steps of each image; most of a run's time is generation, and more steps change little at this size."""
ORACLE, BASE = "oracle", "base"
CASTS = {"choosing": choosing, "reported": reported}


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


def jobs(cast: Sequence[Subject], flags: argparse.Namespace, recipe: Recipe) -> list[Job]:
    """Return all runs: the base model once; the oracle and each confound's arms for every seed."""
    asked = [("", BASE, 0), *[("", ORACLE, seed) for seed in range(flags.seeds)]]
    asked += [(name, arm, seed) for seed in range(flags.seeds) for name in flags.confounds for arm in flags.arms]
    rates: dict[str, list[float]] = {}
    for arm, rate in flags.learning_rate:
        rates.setdefault(arm, []).append(rate)
    default = rates.get("", [RATE])[-1:]
    steps = {"": LENGTHS[-1], **dict(flags.steps)}

    def settings(arm: str, rate: float) -> Recipe:
        return replace(recipe, learning_rate=rate, steps=steps.get(arm, steps[""]))

    return [
        Job(subject, confound, arm, seed, settings(arm, rate), flags.output)
        for confound, arm, seed in asked
        for rate in rates.get(arm, default)
        for subject in cast
    ]


def read_flags() -> tuple[argparse.Namespace, Recipe]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("frontier"), help="folder for everything")
    parser.add_argument("--cast", choices=list(CASTS), default="reported", help="whose numbers (reported)")
    parser.add_argument("--confounds", nargs="+", choices=list(CONFOUNDS), default=list(CONFOUNDS), help="(all)")
    parser.add_argument("--arms", nargs="+", default=["a", "b", "c"], help="letters of the arms (a b c)")
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds (2)")
    parser.add_argument("--subjects", type=int, default=None, help="only the cast's first N")
    parser.add_argument("--workers", type=int, default=2, help="runs at once (2)")
    parser.add_argument("--lora_rank", type=int, default=0, help="0 trains all weights of the denoiser (0)")
    parser.add_argument(
        "--learning_rate",
        nargs="+",
        type=read_rate,
        default=[],
        help=f"of all arms ({RATE:g}), or of each: with 0.002 a=0.001 a=0.004, a has two others and a row for each",
    )
    parser.add_argument(
        "--steps",
        nargs="+",
        type=read_steps,
        default=[],
        help="the longest training of all arms (800), or of each: with 200 a=400, only a trains longer",
    )
    parser.add_argument("--pictures", type=int, default=1, help="a prompt with a scene (1), four times that without")
    flags = parser.parse_args()
    recipe = Recipe(lora_rank=flags.lora_rank, pictures=flags.pictures, inference_steps=INFERENCE_STEPS)
    return flags, recipe


def read_rate(words: str) -> tuple[str, float]:
    """Read "0.001", the rate of all arms, or "a=0.001", that of one; returns the arm's letter, or "", and the rate."""
    arm, _, rate = words.rpartition("=")
    return arm, float(rate)


def read_steps(words: str) -> tuple[str, int]:
    """Read "200", the longest of all arms, or "a=400", that of one; returns the arm's letter, or "", and it."""
    arm, _, steps = words.rpartition("=")
    if int(steps) not in LENGTHS:
        raise argparse.ArgumentTypeError(f"{steps} is none of {', '.join(map(str, LENGTHS))}")
    return arm, int(steps)


def main() -> None:
    """Do the missing runs, then write the report."""
    flags, recipe = read_flags()
    cast = CASTS[flags.cast]()[: flags.subjects]
    asked = jobs(cast, flags, recipe)
    albums = {prepared(job): job for job in asked}
    for folder, job in tqdm(albums.items(), "preparing photos"):
        if job.confound:
            prepare(job.album(), folder, recipe, CLASS_IMAGES if any("+p" in arm for arm in flags.arms) else 0, True)
        elif job.arm == ORACLE and not (folder / "photos").exists():
            save_album(job.album(), folder)
    missing = [job for job in asked if not job.is_done()]
    with get_context("spawn").Pool(flags.workers, maxtasksperchild=8) as pool:
        for _ in tqdm(pool.imap_unordered(run, missing), "runs", len(missing)):
            pass
    from frontier_report import write_report  # the runs do not need the judges

    print(write_report(flags.output, [job for job in asked if job.is_done()]))


if __name__ == "__main__":
    main()
