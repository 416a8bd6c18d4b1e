"""Load what training saved; prompts in, pictures out."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from persam_dreambooth import model_folder
from persam_dreambooth.devices import choose_device
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import drawing, files

GRID_NAME = "grid.png"


@dataclass(frozen=True)
class Picture:
    """One generated picture and all that is needed to draw it again."""

    image: Image.Image
    prompt: str
    seed: int


def load_pipeline(
    model: str, base_model: str | None = None, device: str | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """A diffusers pipeline from a pipeline folder, a LoRA folder, or a hub name.

    Args:
        model: what training wrote, or the name of any text-to-image pipeline.
        base_model: for LoRA folders without a training config; otherwise the config names it.
        device: None takes an accelerator where there is one.
        dtype: of all weights.

    Raises:
        UserError: no model there, or LoRA weights whose base model is unknown or missing.
    """
    folder = Path(model)
    lora, index = model_folder.LORA_NAME, model_folder.PIPELINE_INDEX
    is_lora = (folder / lora).is_file()
    if folder.is_dir() and not is_lora and not (folder / index).is_file():
        raise UserError(f"{model} holds neither {index} nor {lora}; give the --output_dir of a finished training")
    origin: dict[str, str | None] | None = {"pretrained_model_name_or_path": base_model or model}
    if is_lora and base_model is None:
        origin = model_folder.base_model(folder)
    if origin is None:
        raise UserError(
            f"{folder} holds LoRA weights but no {model_folder.CONFIG_NAME} that names their base; give --base_model"
        )
    source = origin["pretrained_model_name_or_path"]
    place = choose_device(device)
    what = f"the base model {source} of {model}" if is_lora else f"the model {source}"
    try:
        pipeline = DiffusionPipeline.from_pretrained(**origin, trust_remote_code=False)
        if is_lora:
            what = f"the LoRA weights in {folder}"
            pipeline.load_lora_weights(folder, weight_name=lora)
    except Exception as error:  # missing, damaged and foreign files each raise something else
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{what} cannot be loaded: {reason}") from error
    return pipeline.to(place, dtype)  # always cast: parts of a model stored in fp16 come in two precisions


def generate(
    pipeline: Any,
    prompts: Sequence[str],
    num_images: int = 4,
    seed: int = 0,
    each: Callable[[Picture], None] = lambda picture: None,
    **settings: Any,
) -> list[Picture]:
    """Draw every prompt `num_images` times; image i of each prompt has seed `seed` + i.

    Pictures are drawn one by one, so that one of them is the same whatever else is drawn with it.

    Args:
        pipeline: from `load_pipeline`.
        prompts: the texts.
        num_images: a prompt.
        seed: of the first picture of each prompt.
        each: called with every picture as soon as it is there.
        settings: passed on to the pipeline (num_inference_steps, guidance_scale, height, width, ...).

    Returns:
        The pictures, prompt by prompt.

    Raises:
        UserError: the pipeline refuses the settings.
    """
    pictures = []
    with tqdm(total=len(prompts) * num_images, desc="Generating", unit="image") as progress:
        for prompt in prompts:
            for number in range(num_images):
                pictures.append(draw(pipeline, prompt, seed + number, **settings))
                each(pictures[-1])
                progress.update()
    return pictures


def draw(pipeline: Any, prompt: str, seed: int, **settings: Any) -> Picture:
    """Draw one picture; see `generate`."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator(pipeline.device).manual_seed(seed)
    try:
        image = pipeline(prompt, generator=generator, **settings).images[0]
    except ValueError as error:  # how diffusers refuses a size that is no multiple of 8, and the like
        raise UserError(f"the model refuses these settings: {str(error).splitlines()[0]}") from error
    return Picture(image, prompt, seed)


def picture_paths(folder: Path, prompts: Sequence[str], num_images: int, seed: int) -> dict[tuple[str, int], Path]:
    """As `named_pictures`, in a folder that has none of them yet.

    Raises:
        UserError: one of the files, or the grid, is there already.
    """
    paths = named_pictures(folder, prompts, num_images, seed)
    there = [path.name for path in [*paths.values(), folder / GRID_NAME] if path.exists()]
    if there:
        raise UserError(f"{folder} already holds {there[0]}; choose another --output folder")
    return paths


def named_pictures(folder: Path, prompts: Sequence[str], num_images: int, seed: int) -> dict[tuple[str, int], Path]:
    """Where each (prompt, seed) goes: `PROMPT-SEED.png`, numbered where prompts look alike in a file name."""
    stems: dict[str, str] = {}
    for prompt in dict.fromkeys(prompts):
        stem = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "prompt"
        names = chain([stem], (f"{stem}-{number}" for number in count(2)))
        stems[prompt] = next(name for name in names if name not in stems.values())
    return {
        (prompt, seed + number): folder / f"{stem}-{seed + number}.png"
        for prompt, stem in stems.items()
        for number in range(num_images)
    }


def save_picture(picture: Picture, path: Path, model: str, settings: dict[str, Any]) -> None:
    """Write a PNG that says how it was made: text entries `prompt`, `seed`, `model` and every setting."""
    info = PngInfo()
    for key, value in {"prompt": picture.prompt, "seed": picture.seed, "model": model, **settings}.items():
        if value is not None:
            info.add_itxt(key, str(value))
    with files.replacing(path) as temporary:
        picture.image.save(temporary, format="PNG", pnginfo=info)


def save_grid(pictures: Sequence[Picture], num_images: int, folder: Path) -> Path:
    """All pictures on one sheet, a row a prompt; returns `grid.png`."""
    sheet = drawing.sheet(
        [picture.image for picture in pictures],
        [f"{picture.prompt} ({picture.seed})" for picture in pictures],
        columns=num_images,
    )
    files.write_picture(sheet, folder / GRID_NAME)
    return folder / GRID_NAME
