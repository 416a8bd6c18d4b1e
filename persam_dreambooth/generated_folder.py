"""Generate a folder of pictures; an interrupted call can be repeated and draws only what is missing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from persam_dreambooth import generation, long_prompts, model_folder
from persam_dreambooth.atomic_io import clear_unfinished
from persam_dreambooth.errors import UserError
from persam_dreambooth.flag_values import check_drawing
from persam_dreambooth.photos.files import check_output_folder
from persam_dreambooth.quiet import quiet
from persam_dreambooth.text_files import check_words

logger = logging.getLogger(__name__)


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
    paths, missing = generation.planned_pictures(folder, prompts, num_images, seed, made)
    clear_unfinished(folder)
    if missing:
        with quiet():
            pipeline = generation.load_pipeline(model, how["base_model"], device, dtype, single_file_config)
            for prompt, end in long_prompts.cut_ends(pipeline, prompts).items():
                logger.warning("warning: the model does not read the end of %r, from %r on", prompt, end)
            for prompt, number in tqdm(missing, "Generating", unit="picture"):
                picture = generation.draw(pipeline, prompt, number, **settings)
                generation.save_picture(picture, paths[prompt, number], model, settings | how)
    return GeneratedFolder(paths, _save_grid(paths, num_images, folder, model), len(missing))


def _save_grid(paths: Mapping[tuple[str, int], Path], num_images: int, folder: Path, model: str) -> Path:
    pictures = []
    for (prompt, number), path in paths.items():
        with Image.open(path) as image:
            pictures.append(generation.Picture(image.convert("RGB"), prompt, number))
    return generation.save_grid(pictures, num_images, folder, model)
