"""Generate a folder of pictures; an interrupted call can be repeated and draws only what is missing.

Every picture's metadata says how it was made.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from persam_dreambooth import generation, long_prompts, model_folder
from persam_dreambooth.atomic_io import clear_unfinished
from persam_dreambooth.errors import UserError
from persam_dreambooth.flag_values import check_drawing
from persam_dreambooth.photos import rendering
from persam_dreambooth.photos.files import check_output_folder, picture_texts, write_picture
from persam_dreambooth.quiet import quiet
from persam_dreambooth.text_files import check_words

logger = logging.getLogger(__name__)

GRID_NAME = "grid.png"


@dataclass(frozen=True)
class GeneratedFolder:
    """The files in a folder of generated pictures.

    Attributes:
        pictures: (prompt, seed) -> PNG file, prompt by prompt; its text entries hold the settings.
        grid: sheet of all pictures, one row per prompt.
        drawn: number of pictures drawn by this call; the others are from earlier calls.
    """

    pictures: Mapping[tuple[str, int], Path]
    grid: Path
    drawn: int


def generate_folder(
    model: Path | str,
    prompts: Sequence[str] | str,
    output: Path | str,
    num_images: int = 4,
    seed: int = 0,
    *,
    negative_prompt: str | None = None,
    num_inference_steps: int = 50,
    guidance_scale: float = 7.5,
    height: int | None = None,
    width: int | None = None,
    base_model: Path | str | None = None,
    single_file_config: str | None = None,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> GeneratedFolder:
    """Generate `num_images` pictures for every prompt; picture i has seed `seed` + i.

    Pictures that an earlier call drew with the same settings are kept; the model is loaded only if one is missing.

    Args:
        model: the `output_dir` of a training, a pipeline's folder, or a hub name.
        prompts: one or several; duplicates count once.
        output: folder for the pictures and `grid.png`.
        num_images: pictures per prompt.
        seed: seed of each prompt's first picture.
        negative_prompt: text that the pictures should not match.
        num_inference_steps: denoising steps.
        guidance_scale: scale of classifier-free guidance.
        height: pixels, a multiple of 8, together with `width`; None is the model's own size.
        width: likewise.
        base_model: base of LoRA weights that come without a training config.
        single_file_config: pipeline with the configs of a model in a single file; see `load_pipeline`.
        device: cpu, cuda, cuda:1, mps; None takes an accelerator if there is one.
        dtype: of all weights.

    Raises:
        UserError: no model, settings that it refuses, no prompt, or a picture in the folder that was made with another
            model or other settings.
    """
    check_drawing(num_images, num_inference_steps, height, width)
    prompts = list(dict.fromkeys([prompts] if isinstance(prompts, str) else prompts))
    if not prompts:
        raise UserError("no prompt was given; give at least one")
    check_words("prompt", *prompts)
    check_words("negative_prompt", negative_prompt)
    model, folder = str(model), Path(output)
    check_output_folder(folder)
    settings = {
        "negative_prompt": negative_prompt,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "height": height,
        "width": width,
    }
    # None stands for the default, which is not recorded.
    how = {
        "base_model": None if base_model is None else str(base_model),
        "single_file_config": single_file_config,
        "dtype": None if dtype == torch.float32 else str(dtype).removeprefix("torch."),
        "weights": model_folder.weights_digest(Path(model)) or None,
    }
    made = {"model": model, **settings, **how}
    paths, missing = planned_pictures(folder, prompts, num_images, seed, made)
    clear_unfinished(folder)
    if missing:
        with quiet():
            pipeline = generation.load_pipeline(model, how["base_model"], device, dtype, single_file_config)
            for prompt, end in long_prompts.cut_ends(pipeline, prompts).items():
                logger.warning("warning: the model does not read the end of %r, from %r on", prompt, end)
            for prompt, number in tqdm(missing, "Generating", unit="picture"):
                picture = generation.draw(pipeline, prompt, number, **settings)
                save_picture(picture, paths[prompt, number], model, settings | how)
    return GeneratedFolder(paths, _save_grid(paths, num_images, folder, model), len(missing))


def _save_grid(paths: Mapping[tuple[str, int], Path], num_images: int, folder: Path, model: str) -> Path:
    pictures = []
    for (prompt, number), path in paths.items():
        with Image.open(path) as image:
            pictures.append(generation.Picture(image.convert("RGB"), prompt, number))
    return save_grid(pictures, num_images, folder, model)


def picture_paths(folder: Path, prompts: Sequence[str], num_images: int, seed: int) -> dict[tuple[str, int], Path]:
    """Return the paths of `named_pictures`, after checking that none of the files exists yet.

    Raises:
        UserError: one of the files, or the grid, already exists.
    """
    paths = named_pictures(folder, prompts, num_images, seed)
    there = [path.name for path in [*paths.values(), folder / GRID_NAME] if path.exists()]
    if there:
        raise UserError(f"{folder} already holds {there[0]}; choose another --output folder")
    return paths


def planned_pictures(
    folder: Path, prompts: Sequence[str], num_images: int, seed: int, made: dict[str, Any]
) -> tuple[dict[tuple[str, int], Path], list[tuple[str, int]]]:
    """Return the path of each (prompt, seed), and the pairs that still have to be generated.

    A picture is kept if its metadata says that it has this prompt and seed, and the same model and settings.

    Args:
        folder: for the pictures; may hold those of an earlier run.
        prompts, num_images, seed: as in `generate`.
        made: the rest of a picture's metadata; see `save_picture`.

    Raises:
        UserError: a file of that name exists that was made differently, or is not ours.
    """
    paths = named_pictures(folder, prompts, num_images, seed, beside=True)
    missing = []
    for (prompt, number), path in paths.items():
        if not path.exists():
            missing.append((prompt, number))
        elif picture_texts(path, whole=True) != _texts({"prompt": prompt, "seed": number, **made}):
            raise _in_the_way(path)
    grid = folder / GRID_NAME
    if grid.exists():
        known = [picture_texts(grid), *(picture_texts(path) for path in sorted(folder.glob("*.png")) if path != grid)]
        if not any(known) or any(text and text.get("model") != str(made["model"]) for text in known):
            raise _in_the_way(grid)
    return paths, missing


def _in_the_way(path: Path) -> UserError:
    return UserError(
        f"{path.parent} already holds {path.name}, which was made by another model or with other settings; choose "
        "another --output folder"
    )


def named_pictures(
    folder: Path, prompts: Sequence[str], num_images: int, seed: int, beside: bool = False
) -> dict[tuple[str, int], Path]:
    """Return the path of each (prompt, seed): `PROMPT-SEED.png`, numbered if prompts give the same file name.

    With `beside`, names already taken by pictures of other prompts are skipped.
    """
    stems: dict[str, str] = {}
    for prompt in dict.fromkeys(prompts):
        stem = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "prompt"
        names = chain([stem], (f"{stem}-{number}" for number in count(2)))
        stems[prompt] = next(
            name
            for name in names
            if name not in stems.values()
            and not (beside and _of_others(folder, name, prompt, range(seed, seed + num_images)))
        )
    return {
        (prompt, seed + number): folder / f"{stem}-{seed + number}.png"
        for prompt, stem in stems.items()
        for number in range(num_images)
    }


def _of_others(folder: Path, stem: str, prompt: str, seeds: range) -> bool:
    return any(picture_texts(folder / f"{stem}-{seed}.png").get("prompt", prompt) != prompt for seed in seeds)


def save_picture(picture: generation.Picture, path: Path, model: str, settings: dict[str, Any]) -> None:
    """Write a PNG whose text entries record how it was made: `prompt`, `seed`, `model` and every setting."""
    made = {"prompt": picture.prompt, "seed": picture.seed, "model": model, **settings}
    write_picture(picture.image, path, _texts(made))


def save_grid(pictures: Sequence[generation.Picture], num_images: int, folder: Path, model: str = "") -> Path:
    """Write `grid.png`, with one row per prompt and a text entry that names the model; return its path."""
    sheet = rendering.sheet(
        [picture.image for picture in pictures],
        [f"{picture.prompt} ({picture.seed})" for picture in pictures],
        columns=num_images,
    )
    write_picture(sheet, folder / GRID_NAME, _texts({"model": model}))
    return folder / GRID_NAME


def _texts(made: dict[str, Any]) -> dict[str, str]:
    """Convert metadata to a PNG's text entries; bytes of a path that are not UTF-8 are escaped."""
    return {
        key: str(value).encode("utf-8", "backslashreplace").decode()
        for key, value in made.items()
        if value is not None
    }
