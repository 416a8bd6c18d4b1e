"""Load a trained model and generate pictures from prompts."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from tqdm import tqdm

from persam_dreambooth import adapter_files, learned_tokens, long_prompts, model_folder
from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import check_available
from persam_dreambooth.photos import files, rendering
from persam_dreambooth.pipeline_settings import accepted, guided
from persam_dreambooth.single_file import SingleFile, is_single_file
from persam_dreambooth.torch_utils import choose_device

GRID_NAME = "grid.png"


@dataclass(frozen=True)
class Picture:
    """A generated picture with everything needed to generate it again."""

    image: Image.Image
    prompt: str
    seed: int


def load_pipeline(
    model: Path | str,
    base_model: Path | str | None = None,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    single_file_config: str | None = None,
) -> Any:
    """Load a diffusers pipeline from a folder, a checkpoint, a single file, or a hub name.

    Args:
        model: the output folder of a training run or a checkpoint in it, a .safetensors file of LoRA weights or of
            LyCORIS's LoHa or LoKr, or the name of any text-to-image pipeline.
        base_model: needed for LoRA weights or learned embeddings without a training config, which names it otherwise.
        device: None uses the accelerator if there is one.
        dtype: of all weights.
        single_file_config: with a model or a base model in a single file: folder or hub name of a pipeline with its
            configs; None takes the one of the training, or else the original release on the hub.

    Raises:
        UserError: there is no model, or its base model is unknown or missing.
    """
    folder, model = Path(model), str(model)
    lora, index = model_folder.LORA_NAME, model_folder.PIPELINE_INDEX
    adapters, parts = model_folder.adapter_folders(folder), model_folder.trained_parts(folder)
    is_file = adapter_files.is_adapter_file(folder)
    home = folder.parent if is_file else folder
    is_beside = model_folder.needs_base(folder)
    if folder.is_dir() and not is_beside and not parts and not (folder / index).is_file():
        raise UserError(f"{model} holds neither {index} nor {lora}; give the --output_dir of a finished training")
    origin: dict[str, str | None] | None = {"pretrained_model_name_or_path": str(base_model or model)}
    on_base = is_beside or is_file or bool(parts)
    if on_base and base_model is None:
        origin = model_folder.base_model(home)
        single_file_config = single_file_config or (origin or {}).pop("single_file_config", None)
    if origin is None:
        raise UserError(
            f"{folder} needs a base model, and there is no {model_folder.CONFIG_NAME} that names it; give --base_model"
        )
    source = origin["pretrained_model_name_or_path"]
    place = choose_device(device)
    if not is_single_file(str(source)):
        check_available(str(source), f"base model of {model}" if on_base else "model")
    what = base = f"the base model {source} of {model}" if on_base else f"the model {source}"
    try:
        if is_single_file(str(source)):
            pipeline = SingleFile.read(str(source), single_file_config).load_pipeline()
        else:
            pipeline = DiffusionPipeline.from_pretrained(**origin, trust_remote_code=False)
        if on_base:
            what = f"the autoencoder that {folder} was trained with"
            if vae := model_folder.training_settings(home).get("pretrained_vae_model_name_or_path"):
                pipeline.register_modules(vae=type(pipeline.vae).from_pretrained(vae))
        for name in parts:
            what = f"the weights in {folder / name}"
            own = type(getattr(pipeline, name)).from_pretrained(folder / name, use_safetensors=True)
            pipeline.register_modules(**{name: own})
        if is_file:
            what = f"the adapters in {folder}"
            adapter_files.attach_file(pipeline, folder)
        if is_beside:
            what = f"the {'adapters' if adapters else 'LoRA weights'} in {folder}"
            for part in adapters:
                adapter_files.attach(getattr(pipeline, part.name), part)
            if (folder / lora).is_file():
                pipeline.load_lora_weights(folder, weight_name=lora)
        if is_beside and (folder / model_folder.EMBEDDINGS_NAME).is_file():
            what = f"the embeddings in {folder}"
            learned_tokens.attach(pipeline, folder)
    except UserError:
        raise
    except Exception as error:  # missing, damaged and foreign files all raise different exceptions
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if what == base and not Path(str(source)).exists():
            reason = "no such folder, and no model of that name can be reached"
        raise UserError(f"{what} cannot be loaded ({reason}); check the name, or download it again") from error
    # The token limit of the training's prompts, so that `draw` encodes prompts in the same way.
    pipeline.max_token_length = model_folder.training_settings(home).get("max_token_length")
    pipeline.to(place, dtype)  # always cast: a model stored in fp16 can load in mixed precision
    _make_ready(pipeline, what)
    return pipeline


def _make_ready(pipeline: Any, what: str) -> None:
    """Switch off all dropout, including that of adapters, and check that all weights are finite.

    Raises:
        UserError: some weights are NaN or infinite; every picture would be black.
    """
    pipeline.set_progress_bar_config(disable=True)
    for name, part in pipeline.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        part.eval()  # adapters are loaded in training mode
        if not all(bool(weight.isfinite().all()) for weight in part.parameters()):
            raise UserError(f"{what} cannot be used: {name} holds weights that are NaN or infinite; train it again")


def generate(
    pipeline: Any,
    prompts: Sequence[str],
    num_images: int = 4,
    seed: int = 0,
    each: Callable[[Picture], None] = lambda picture: None,
    **settings: Any,
) -> list[Picture]:
    """Generate `num_images` pictures for every prompt; picture i of each prompt has seed `seed` + i.

    Pictures are generated one at a time, so that each is the same whatever else is generated.

    Args:
        pipeline: from `load_pipeline`.
        prompts: the texts.
        num_images: pictures per prompt.
        seed: of the first picture of each prompt.
        each: called with every picture as soon as it is finished.
        settings: passed on to the pipeline (num_inference_steps, guidance_scale, height, width, ...).

    Returns:
        The pictures, prompt by prompt.

    Raises:
        UserError: the pipeline rejects the settings.
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
    """Generate one picture; see `generate`."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator(pipeline.device).manual_seed(seed)
    try:
        named = accepted(pipeline, guided(pipeline, settings))
        limit = getattr(pipeline, "max_token_length", None)
        # The prompt is passed by keyword: Flux.2's first argument is a picture. Levels are (1, H, W, 3) in [0, 1].
        named |= long_prompts.arguments(pipeline, prompt, named.get("negative_prompt"), limit)
        levels = pipeline(generator=generator, output_type="np", **named).images
    except ValueError as error:  # such as a size that is not a multiple of 8
        raise UserError(f"the model rejects these settings: {str(error).splitlines()[0]}") from error
    if not np.isfinite(levels).all():
        raise UserError(
            f"the model generated NaN for {prompt!r}: float16 is too narrow for some models, use --dtype bfloat16 or "
            "float32; or its weights are damaged"
        )
    return Picture(DiffusionPipeline.numpy_to_pil(levels)[0], prompt, seed)


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
        elif told(path) != _texts({"prompt": prompt, "seed": number, **made}):
            raise _in_the_way(path)
    grid = folder / GRID_NAME
    if grid.exists():
        known = [told(grid), *(told(path) for path in sorted(folder.glob("*.png")) if path != grid)]
        if not any(known) or any(text and text.get("model") != str(made["model"]) for text in known):
            raise _in_the_way(grid)
    return paths, missing


def _in_the_way(path: Path) -> UserError:
    return UserError(
        f"{path.parent} already holds {path.name}, which was made by another model or with other settings; choose "
        "another --output folder"
    )


def told(path: Path) -> dict[str, str]:
    """Return the text entries of a PNG; empty if the file has none, is missing or is damaged."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
            return {key: str(value) for key, value in picture.text.items()}  # type: ignore[attr-defined]
    except (OSError, ValueError, SyntaxError):
        return {}


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
    return any(told(folder / f"{stem}-{seed}.png").get("prompt", prompt) != prompt for seed in seeds)


def save_picture(picture: Picture, path: Path, model: str, settings: dict[str, Any]) -> None:
    """Write a PNG whose text entries record how it was made: `prompt`, `seed`, `model` and every setting."""
    made = {"prompt": picture.prompt, "seed": picture.seed, "model": model, **settings}
    files.write_picture(picture.image, path, _texts(made))


def save_grid(pictures: Sequence[Picture], num_images: int, folder: Path, model: str = "") -> Path:
    """Write `grid.png`, with one row per prompt and a text entry that names the model; return its path."""
    sheet = rendering.sheet(
        [picture.image for picture in pictures],
        [f"{picture.prompt} ({picture.seed})" for picture in pictures],
        columns=num_images,
    )
    files.write_picture(sheet, folder / GRID_NAME, _texts({"model": model}))
    return folder / GRID_NAME


def _texts(made: dict[str, Any]) -> dict[str, str]:
    """Convert metadata to a PNG's text entries; bytes of a path that are not UTF-8 are escaped."""
    return {
        key: str(value).encode("utf-8", "backslashreplace").decode()
        for key, value in made.items()
        if value is not None
    }
