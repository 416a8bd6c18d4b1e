"""Class images for prior preservation; the base model generates the missing ones."""

from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from tqdm import tqdm

from persam_dreambooth import long_prompts
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.listing import repeated_folders
from persam_dreambooth.text_files import read_yaml
from persam_dreambooth.training.config import TrainingConfig, without_folders
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.families.loading import single_file
from persam_dreambooth.training.screen import say, warn

ORIGIN_NAME = ".class_images.json"
"""Hidden file beside the class images that records the prompts and base models they were generated with."""
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "no": torch.float32}


def check_class_folders(concepts: Sequence[Concept]) -> None:
    """Refuse class image folders that hold a subject's photos or masks.

    These would be trained on as class images, and class images would be generated among them.

    Raises:
        UserError: there is such a folder; the message names it.
    """
    folders = [
        folder
        for concept in concepts
        for folder in (concept.photos, concept.masks, concept.regions, concept.excluded)
        if folder
    ]
    inside = [inner.path for folder in folders for inner in repeated_folders(folder)]
    taken = {folder.resolve() for folder in (*folders, *inside)}
    for concept in concepts:
        if concept.num_class_images and concept.class_folder and concept.class_folder.resolve() in taken:
            raise UserError(
                f"--class_data_dir {concept.class_folder} holds a subject's photos or masks; give a folder that holds "
                "only class images"
            )


def ensure_class_images(concept: Concept, config: TrainingConfig, accelerator: Accelerator) -> list[Path]:
    """Generate a subject's missing class images, split between all processes.

    Image i is generated with seed `--seed` + i, so that the set depends neither on the number of processes
    nor on interruptions (except for rounding differences between batch sizes).

    Returns:
        `--num_class_images` files; none without prior preservation. With `--dry_run` nothing is generated, and only
        those files that are there already are returned.

    Raises:
        UserError: the folder cannot be made, or a class image in it cannot be decoded.
    """
    folder = concept.class_folder
    if folder is None or not concept.num_class_images:
        return []
    files.check_output_folder(folder)
    if not config.output.dry_run:
        folder.mkdir(parents=True, exist_ok=True)
    existing = _images(folder) if folder.is_dir() else []
    if folder.is_dir() and (
        words := files.unread_words(files.unread_files(folder, [inner.path for inner in repeated_folders(folder)]))
    ):
        warn(f"--class_data_dir {folder}: {words}")
    taken = {path.stem for path in existing}
    free = (number for number in count() if _stem(number) not in taken)
    missing = list(islice(free, max(0, concept.num_class_images - len(existing))))
    if config.output.dry_run:
        if missing:
            say(f"class images: {len(missing)} of {concept.num_class_images} would be generated into {folder}")
        return _readable(existing[: concept.num_class_images])
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _remember_origin(folder, concept.class_prompt, config, bool(missing))
    if missing:
        with accelerator.split_between_processes(missing) as mine:
            _generate(mine, folder, concept.class_prompt, config, accelerator)
        accelerator.wait_for_everyone()
    return _readable(_images(folder)[: concept.num_class_images])


def _readable(images: list[Path]) -> list[Path]:
    """Return the images after decoding each: fail on a damaged file now, not in the middle of training."""
    for path in images:
        files.read_photo(path)
    return images


def _images(folder: Path) -> list[Path]:
    """List the images in the folder and in kohya's folders inside it (repeats apply to photos only)."""
    inside = [path for inner in repeated_folders(folder) for path in files.list_photos(inner.path)]
    return [*files.list_photos(folder), *inside]


def _remember_origin(folder: Path, prompt: str | None, config: TrainingConfig, is_drawn: bool) -> None:
    """Warn if class images were generated for another prompt or model; record this run's if it generates any.

    A user's own pictures have no record and cause no warning.

    Args:
        folder: of the class images.
        prompt: the class prompt.
        config: names the base model.
        is_drawn: whether this run generates class images.
    """
    path, base = folder / ORIGIN_NAME, without_folders(str(config.model.pretrained_model_name_or_path))
    now = {"class_prompt": prompt, "base_model": base}
    before = read_yaml(path, "record of class images") if path.exists() else []  # reads JSON too
    if not isinstance(before, list) or not all(isinstance(origin, dict) for origin in before):
        raise UserError(f"{path}, the record of what the class images beside it were made for, is damaged; delete it")
    others = [f"{origin.get('class_prompt')!r} by {origin.get('base_model')}" for origin in before if origin != now]
    if others:
        warn(
            f"--class_data_dir {folder} holds images generated for {' and '.join(others)}, but this run uses "
            f"{now['class_prompt']!r} by {base}; to generate new ones, give another folder"
        )
    if is_drawn and now not in before:
        files.write_json([*before, now], path)


def _stem(number: int) -> str:
    return f"class-{number:05d}"


def _generate(
    numbers: list[int], folder: Path, prompt: str | None, config: TrainingConfig, accelerator: Accelerator
) -> None:
    """Generate the class images with these numbers into the folder."""
    default = "fp16" if accelerator.device.type == "cuda" else "fp32"
    file = single_file(config.model)
    if file:
        pipeline = file.load_pipeline()
    else:
        pipeline = DiffusionPipeline.from_pretrained(
            config.model.pretrained_model_name_or_path,
            safety_checker=None,
            requires_safety_checker=False,
            revision=config.model.revision,
            variant=config.model.variant,
            trust_remote_code=False,
        )
    # Always cast: diffusers and transformers load some parts of an fp16 base in fp16 and some in float32.
    pipeline.to(accelerator.device, PRECISIONS[config.data.prior_generation_precision or default])
    pipeline.set_progress_bar_config(disable=True)
    seed, size = config.optimization.seed, config.data.sample_batch_size
    hidden = not accelerator.is_local_main_process
    named = long_prompts.arguments(pipeline, str(prompt), None, config.model.max_token_length)
    with tqdm(total=len(numbers), desc="Class images", unit="image", disable=hidden) as progress:
        for start in range(0, len(numbers), size):
            batch = numbers[start : start + size]
            generators = None
            if seed is not None:
                generators = [torch.Generator(accelerator.device).manual_seed(seed + number) for number in batch]
            texts = {"prompt": [prompt] * len(batch)} if "prompt" in named else {"num_images_per_prompt": len(batch)}
            images = pipeline(**named | texts, generator=generators).images
            for number, image in zip(batch, images, strict=True):
                files.write_picture(image, folder / f"{_stem(number)}.png")
            progress.update(len(batch))
