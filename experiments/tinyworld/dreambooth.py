"""One DreamBooth run in tinyworld: write photos and masks, train with the real trainer, generate images."""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

from albums import Album, blank_background, save_album
from arms import CLASS_IMAGES, Arm, Recipe
from loading import check
from models import DIFFUSION, DINO, SAM
from persam_dreambooth.cli import main as persam_dreambooth
from persam_dreambooth.photos import files
from world import SIDE


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
    pipeline: Any = StableDiffusionPipeline.from_pretrained(DIFFUSION if lora else model, dtype=torch.float32)
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
    pipeline: Any = StableDiffusionPipeline.from_pretrained(check(DIFFUSION), dtype=torch.float32)
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
