"""Measure the effect of masks on DreamBooth: plain against masked, with and without a background prior.

    python experiments/tinyworld/experiment.py --output experiment

Six held-out subjects, five photos each on the same background, three seeds, eight arms. Every run uses
the real trainer. Interrupted, the command resumes after the last finished run. It writes `results.json`,
`table.md` and `grid.png`.
"""

import argparse
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from albums import Album, albums, backgrounds, blank_background, save_album
from loading import check
from measures import Measured, fidelity, interval, measure
from models import DIFFUSION, DINO, SAM
from persam_dreambooth.cli import main as persam_dreambooth
from persam_dreambooth.photos import files, rendering
from world import SIDE

CLASS_IMAGES = 24


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        title: its row in the table.
        photos: "photos", or "blank" for photos whose background is painted grey.
        masks: "none", "found" (PerSAM, from the first photo) or "true".
        flags: further flags of the trainer.
        behind: the backgrounds put behind the subject, "gradients" or "scenes" (see `backgrounds`); "" for none.
    """

    title: str
    photos: str = "photos"
    masks: str = "found"
    flags: tuple[str, ...] = ()
    behind: str = ""


@dataclass(frozen=True)
class Recipe:
    """The settings that all arms share."""

    steps: int = 200
    batch_size: int = 4
    learning_rate: float = 4.5e-4
    prior_weight: float = 1.0
    lora_rank: int = 0
    guidance_scale: float = 4.0
    pictures: int = 2
    inference_steps: int = 20
    mixed_precision: str = "no"


def arms(recipe: Recipe) -> dict[str, Arm]:
    """Return the arms by their letters."""
    background = ("--background_prior_weight", str(recipe.prior_weight))
    prior = ("--with_prior_preservation", "--num_class_images", str(CLASS_IMAGES))
    return {
        "a": Arm("DreamBooth", masks="none"),
        "b": Arm("foreground loss only"),
        "c": Arm("foreground loss + background prior", flags=background),
        "a+p": Arm("DreamBooth + class prior preservation", masks="none", flags=prior),
        "b+p": Arm("foreground loss + class prior preservation", flags=prior),
        "c+p": Arm("foreground loss + background prior + class prior preservation", flags=background + prior),
        "e": Arm("as c, with the true masks", masks="true", flags=background),
        "f": Arm("DreamBooth on photos whose background is painted grey", photos="blank", masks="none"),
    }


def further(recipe: Recipe) -> dict[str, Arm]:
    """Return the arms that run only on request: the attention loss, other backgrounds, other latent masks."""
    prior = arms(recipe)["c"].flags
    whole = ("--background_weight", "1")
    made = {
        "a+g": Arm("DreamBooth, gradients put behind the subject", flags=whole, behind="gradients"),
        "b+g": Arm("as b, gradients put behind the subject", behind="gradients"),
        "a+s": Arm("DreamBooth, empty scenes put behind the subject", flags=whole, behind="scenes"),
        "b+s": Arm("as b, empty scenes put behind the subject", behind="scenes"),
    }
    for letter, weight in (("t", "0.01"), ("tt", "0.1")):
        attention = ("--attention_loss_weight", weight, "--identifier", "sks")
        made[f"b+{letter}"] = Arm(f"as b, attention loss {weight}", flags=attention)
        made[f"c+{letter}"] = Arm(f"as c, attention loss {weight}", flags=prior + attention)
    masks = {
        "none": ("loss divided by all cells", "--mask_normalization", "none"),
        "batch": ("loss divided by the batch's cells", "--mask_normalization", "batch"),
        "nearest": ("a cell is its centre pixel", "--mask_downsample", "nearest"),
        "max": ("a cell with any pixel of the subject is the subject's", "--mask_downsample", "max"),
        "min": ("a cell with any pixel of background is background", "--mask_downsample", "min"),
        "wide": ("masks widened by a cell", "--mask_dilation", "4"),
    }
    for letter, (title, *flags) in masks.items():
        made[f"b+{letter}"] = Arm(f"as b, {title}", flags=tuple(flags))
        made[f"c+{letter}"] = Arm(f"as c, {title}", flags=(*prior, *flags))
    return made


def run(album: Album, arm: Arm, seed: int, recipe: Recipe, folder: Path, prepared: Path) -> list[Image.Image]:
    """Train one arm on one album and draw the subject in every other scene.

    Args:
        album: the photos.
        arm, seed, recipe: how to train.
        folder: the folder of this run; the trained model in it is deleted afterwards.
        prepared: the folder that `prepare` wrote for the album.
    """
    train(album, arm, seed, recipe, folder, prepared)
    images = draw_subject(folder / "model", album, seed, recipe)
    shutil.rmtree(folder / "model")
    return images


def train(album: Album, arm: Arm, seed: int, recipe: Recipe, folder: Path, prepared: Path) -> Path:
    """Train one arm on one album and return the model's folder; for the arguments see `run`."""
    kind = album.identity.kind
    shutil.rmtree(folder, ignore_errors=True)
    masks = {"none": ["--no_masked_loss"], "found": ["--instance_mask_dir", str(prepared / "found")]}
    masks["true"] = ["--instance_mask_dir", str(prepared / "masks")]
    model = ["--pretrained_model_name_or_path", str(DIFFUSION)]
    if recipe.lora_rank:
        model += ["--use_lora", "--rank", str(recipe.lora_rank)]
    behind = ["--background_images", str(prepared.parent.parent / arm.behind)] if arm.behind else []
    call(
        *("train", *model, *behind, "--instance_data_dir", str(prepared / arm.photos), *masks[arm.masks]),
        *("--instance_prompt", f"a sks {kind}", "--class_prompt", f"a {kind}"),
        *("--class_data_dir", str(prepared / "class"), "--output_dir", str(folder / "model"), "--resolution", "64"),
        *("--train_batch_size", str(recipe.batch_size), "--max_train_steps", str(recipe.steps)),
        *("--learning_rate", str(recipe.learning_rate), "--lr_warmup_steps", "0", "--seed", str(seed)),
        *("--report_to", "none", "--mixed_precision", recipe.mixed_precision, *arm.flags),
    )
    return folder / "model"


def draw_subject(model: Path, album: Album, seed: int, recipe: Recipe, identifier: str = "sks ") -> list[Image.Image]:
    """Generate `recipe.pictures` images of the subject in each scene but its own, scene by scene."""
    lora = (model / "pytorch_lora_weights.safetensors").exists()
    pipeline: Any = StableDiffusionPipeline.from_pretrained(DIFFUSION if lora else model, torch_dtype=torch.float32)
    if lora:
        pipeline.load_lora_weights(model)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [prompt for prompt in album.prompts(album.other_scenes, identifier) for _ in range(recipe.pictures)]
    noise = [torch.Generator().manual_seed(1000 * seed + number) for number in range(len(prompts))]
    steps, scale = recipe.inference_steps, recipe.guidance_scale
    return pipeline(prompts, generator=noise, num_inference_steps=steps, guidance_scale=scale).images


def prepare(
    album: Album, folder: Path, recipe: Recipe, class_images: int = CLASS_IMAGES, features: bool = False
) -> Path:
    """Write an album's photos, true masks, masks found from the first photo, class images and blanked photos.

    With `features`, PerSAM locates the subject with tinyworld's DINOv3, whose features tell individuals apart.
    """
    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    photos, masks = save_album(album, folder)
    located = ("--features", str(check(DINO)), "--features_size", str(SIDE)) if features else ()
    call(
        *("segment", "--images", str(photos), "--reference", str(photos / "00.png")),
        *("--reference_mask", str(masks / "00.png"), "--sam", str(check(SAM)), "--output", str(folder / "found")),
        *located,
    )
    blank_background(album, folder / "blank")
    if class_images:
        draw_class_images(album, folder / "class", recipe, class_images)
    (folder / "done").touch()
    return folder


def draw_class_images(album: Album, folder: Path, recipe: Recipe, count: int) -> None:
    """Generate images of the album's kind with the base model, for class prior preservation."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(check(DIFFUSION), torch_dtype=torch.float32)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(number) for number in range(count)]
    settings = {"num_inference_steps": recipe.inference_steps, "guidance_scale": recipe.guidance_scale}
    drawn = pipeline([f"a {album.identity.kind}"] * count, generator=noise, **settings).images
    for number, image in enumerate(drawn):
        files.write_picture(image, folder / f"{number:03}.png")


def call(*words: str) -> None:
    """Run a command of persam-dreambooth in this process."""
    code = persam_dreambooth(list(words))
    if code:
        raise RuntimeError(f"persam-dreambooth {' '.join(words)} ended with {code}")


def overlaps(album: Album, prepared: Path) -> list[float]:
    """Return the IoU of each found mask with the true one, for all photos but the reference."""
    scores = []
    for number, picture in list(enumerate(album.pictures))[1:]:
        found, true = files.read_mask(prepared / "found" / "masks" / f"{number:02}.png"), picture.mask()
        scores.append(float((found & true).sum() / (found | true).sum()))
    return scores


def one_run(job: tuple[int, str, int, Recipe, Path]) -> None:
    """Do one run of the experiment, in its own process, and save what the judge sees."""
    number, letter, seed, recipe, output = job
    album = albums()[number]
    folder = output / "runs" / f"{album.name}-{letter}-{seed}"
    torch.set_num_threads(1)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        if letter == "base":
            images = draw_subject(DIFFUSION, album, seed, recipe, identifier="")
        else:
            images = run(
                album, (arms(recipe) | further(recipe))[letter], seed, recipe, folder, output / "albums" / album.name
            )
    files.write_picture(rendering.joined(images, across=True), folder.with_suffix(".png"))
    seen = [asdict(one) for one in measure(images, album.identity)]
    with files.replacing(folder.with_suffix(".json")) as beside:
        beside.write_text(json.dumps(seen))


def summary(output: Path, letters: list[str], seeds: int, recipe: Recipe) -> dict[str, dict[str, list[float]]]:
    """Return each arm's measures with one value per run, the mean over its images."""
    made = {}
    for letter in letters:
        rows: dict[str, list[float]] = {}
        for album in albums():
            photos = measure([picture.image for picture in album.pictures], album.identity)
            main, second = np.mean([one.colours for one in photos], axis=0)
            scenes = [scene for scene in album.other_scenes for _ in range(recipe.pictures)]
            for seed in range(seeds):
                path = output / "runs" / f"{album.name}-{letter}-{seed}.json"
                if not path.exists():
                    continue
                seen = [Measured(**one) for one in json.loads(path.read_text())]
                parts = [fidelity(one, album.identity, (main, second)) for one in seen]
                values = {
                    "scene": [float(one.scene == wanted) for one, wanted in zip(seen, scenes, strict=True)],
                    "leakage": [float(one.scene == album.scene) for one in seen],
                    "bleeding": [one.bleeding for one in seen],
                    **{name: [part[name] for part in parts] for name in ("fidelity", "kind", "pattern", "colours")},
                }
                for name, of_run in values.items():
                    rows.setdefault(name, []).append(float(np.mean(of_run)))
        made[letter] = rows
    return made


def table(results: dict[str, dict[str, list[float]]], recipe: Recipe) -> str:
    """Return a Markdown table with one row per arm: means in percent with 95 % intervals over the runs."""
    names = ("scene", "leakage", "bleeding", "fidelity", "kind", "pattern", "colours")
    heads = ("scene accuracy", "leakage", "bleeding", "fidelity", "kind", "pattern", "colours")
    titles = {letter: arm.title for letter, arm in (arms(recipe) | further(recipe)).items()}
    titles["base"] = "the base model, no subject"
    lines = [f"| arm | | {' | '.join(heads)} |", f"| --- | --- {'| ---: ' * len(heads)}|"]
    for letter, rows in results.items():
        if not rows:
            continue
        cells = []
        for name in names:
            mean, low, high = (100 * value for value in interval(rows[name]))
            cells.append(f"{mean:.1f} [{low:.1f}, {high:.1f}]")
        lines.append(f"| {letter} | {titles[letter]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def grid(output: Path, letters: list[str], recipe: Recipe, seed: int = 0) -> Image.Image:
    """Join the images of all subjects: per arm a row of a photo and one image per scene; subjects in two columns."""
    blocks = []
    for album in albums():
        tiles, captions = [], []
        for letter in letters:
            strip = Image.open(output / "runs" / f"{album.name}-{letter}-{seed}.png")
            tiles.append(album.pictures[0].image)
            captions.append(letter)
            for number, scene in enumerate(album.other_scenes):
                left = number * recipe.pictures * strip.height
                tiles.append(strip.crop((left, 0, left + strip.height, strip.height)))
                captions.append(scene)
        blocks.append(rendering.sheet(tiles, captions, columns=8, tile=96))
    half = -(-len(blocks) // 2)
    return rendering.joined([rendering.joined(blocks[:half]), rendering.joined(blocks[half:])], across=True)


def main() -> None:
    """Do the missing runs, then write results, table and grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("experiment"), help="folder for everything")
    parser.add_argument("--arms", nargs="+", default=["base", *arms(Recipe())], help="letters of the arms (base to f)")
    parser.add_argument("--subjects", type=int, default=6, help="how many subjects (6)")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (3)")
    parser.add_argument("--workers", type=int, default=2, help="runs at once (2)")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"({value})")
    flags = parser.parse_args()
    recipe = Recipe(**{name: getattr(flags, name) for name in asdict(Recipe())})
    chosen = albums()[: flags.subjects]
    for album in tqdm(chosen, "preparing albums"):
        prepare(album, flags.output / "albums" / album.name, recipe)
    backgrounds(flags.output)
    jobs = [
        (number, letter, seed, recipe, flags.output)
        for seed in range(flags.seeds)
        for number, album in enumerate(chosen)
        for letter in flags.arms
        if not (flags.output / "runs" / f"{album.name}-{letter}-{seed}.json").exists()
    ]
    with get_context("spawn").Pool(flags.workers) as pool:
        for _ in tqdm(pool.imap_unordered(one_run, jobs), "runs", len(jobs)):
            pass
    results = summary(flags.output, flags.arms, flags.seeds, recipe)
    found = [iou for album in chosen for iou in overlaps(album, flags.output / "albums" / album.name)]
    text = table(results, recipe)
    print(text)
    print(f"masks found from one reference: mean IoU {np.mean(found):.3f}, lowest {min(found):.3f}, n = {len(found)}")
    (flags.output / "table.md").write_text(text)
    stored = {"recipe": asdict(recipe), "found_masks_iou": found, "arms": results}
    (flags.output / "results.json").write_text(json.dumps(stored, indent=1) + "\n")
    if flags.subjects == len(albums()):
        files.write_picture(grid(flags.output, flags.arms, recipe), flags.output / "grid.png")


if __name__ == "__main__":
    main()
