"""The subjects of a run, each with its own config: one from the flags, or several from a file."""

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.repeated import repeated_folders
from persam_dreambooth.training.config import PATHS, DataConfig, MaskConfig, TrainingConfig
from persam_dreambooth.training.data import dataset_copy
from persam_dreambooth.yaml_files import read_yaml

KEYS = (
    "instance_data_dir",
    "instance_prompt",
    "caption_extension",
    "class_data_dir",
    "class_prompt",
    "num_class_images",
    "instance_mask_dir",
    "reference_image",
    "reference_mask",
    "identifier",
)
"""Keys of an entry of `--concepts_list`, named as the flags."""

LONGEST, LARGEST = 100, 31
"""Maximum number of characters of a value in a message; maximum number of bits of a number."""


def read_concepts(config: TrainingConfig) -> list[TrainingConfig]:
    """Return one config per subject, with that subject's photos, prompts and masks.

    Args:
        config: the run's; its values are the defaults for the entries of `--concepts_list`. With a data set, the
            result points to the copy that is trained on, whether or not it exists yet.

    Returns:
        At least one.

    Raises:
        UserError: the file cannot be read, an entry lacks a key or has an unknown one, or two entries have
            photo folders of the same name.
    """
    if config.data.dataset_name:
        return [dataset_copy.local(config)]
    if not config.data.concepts_list:
        return [_prompted(config)]
    path = Path(config.data.concepts_list)
    entries = read_yaml(path, "list of subjects")  # reads JSON too
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"--concepts_list {path} must be a list of entries, each with instance_data_dir and so on")
    concepts = [
        _concept(config, entry, f"entry {number} of {path}", path.parent)
        for number, entry in enumerate(entries, start=1)
    ]
    names = [folder_name(concept) for concept in concepts]
    if len(set(names)) < len(names):
        raise UserError(
            f"two entries of {path} have photo folders of the same name ({', '.join(names)}); rename one, since "
            "results are named after them"
        )
    _refuse_shared_class_folders(concepts, path)
    return list(map(_prompted, concepts))


def _prompted(config: TrainingConfig) -> TrainingConfig:
    """Use the prompt in the names of kohya's folders if there is no other prompt and all folders have the same."""
    words = {folder.words for folder in repeated_folders(Path(str(config.data.instance_data_dir)))}
    if config.data.instance_prompt or config.data.caption_extension or len(words) != 1:
        return config
    return replace(config, data=replace(config.data, instance_prompt=words.pop()))


def _refuse_shared_class_folders(concepts: Sequence[TrainingConfig], path: Path) -> None:
    """Refuse a folder of class images that is shared by two different class prompts."""
    prompts: dict[Path, str | None] = {}
    for concept in concepts:
        if concept.data.with_prior_preservation:
            folder = Path(str(concept.data.class_data_dir)).resolve()
            if prompts.setdefault(folder, concept.data.class_prompt) != concept.data.class_prompt:
                raise UserError(
                    f"two entries of {path} share the class_data_dir {concept.data.class_data_dir} but have different "
                    "class_prompts; give each its own folder"
                )


def folder_name(concept: TrainingConfig) -> str:
    """Return the name of a subject's files in a run with several subjects; empty in a run with one."""
    return Path(str(concept.data.instance_data_dir)).resolve().name if concept.data.concepts_list else ""


def _found(name: str, beside: Path) -> str:
    """Resolve a path against the working folder or, if nothing is there, against the folder of the list."""
    return name if Path(name).exists() or not (beside / name).exists() else str(beside / name)


def _short(value: Any) -> str:
    """Return the repr of a value for a message, cut if it is long."""
    if isinstance(value, int) and value.bit_length() > LARGEST:
        return "a number this large"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _can_be_given(value: str) -> bool:
    """Whether it can be a command-line argument, and so a path: no NUL, no lone surrogate."""
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _concept(config: TrainingConfig, entry: dict[str, Any], where: str, beside: Path) -> TrainingConfig:
    unknown = set(entry) - set(KEYS)
    if unknown:
        raise UserError(f"{where} has an unknown key {min(map(_short, unknown))}; known: {', '.join(KEYS)}")
    for key, value in entry.items():
        # bool is a subclass of int, but not a number here.
        if isinstance(value, bool) or not isinstance(value, int if key == "num_class_images" else str):
            raise UserError(f"{where}: {key} cannot be {_short(value)}")
        too_large = isinstance(value, int) and value.bit_length() > LARGEST
        if too_large or (isinstance(value, str) and not _can_be_given(value)):
            raise UserError(f"{where}: {key} cannot be {_short(value)}")
    entry = {key: _found(value, beside) if key in PATHS else value for key, value in entry.items()}
    of_data = {flag.name for flag in fields(DataConfig)} & set(entry)
    of_mask = {flag.name for flag in fields(MaskConfig)} & set(entry)
    try:
        concept = replace(
            config,
            data=replace(config.data, **{key: entry[key] for key in of_data}),
            mask=replace(config.mask, **{key: entry[key] for key in of_mask}),
        )
        concept.check_subject()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return concept
