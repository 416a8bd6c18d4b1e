"""The subjects of a run, each as settings of its own: one from the flags, or several from a file."""

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
"""What an entry of `--concepts_list` may say; the words are the flags'."""

LONGEST, LARGEST = 100, 31
"""Characters of a value that a message quotes; bits of a number that can be meant."""


def read_concepts(config: TrainingConfig) -> list[TrainingConfig]:
    """The run's settings once a subject, with that subject's photos, prompts and masks.

    Args:
        config: the run's; its own values hold where an entry of `--concepts_list` is silent. Of a data set the
            copy is what is trained on, whether it has been made yet or not.

    Returns:
        At least one.

    Raises:
        UserError: the file cannot be read, an entry lacks something or says something unknown, or two
            entries have photo folders of one name.
    """
    if config.data.dataset_name:
        return [dataset_copy.local(config)]
    if not config.data.concepts_list:
        return [_prompted(config)]
    path = Path(config.data.concepts_list)
    entries = read_yaml(path, "list of subjects")  # which reads JSON too
    if not isinstance(entries, list) or not entries or not all(isinstance(one, dict) for one in entries):
        raise UserError(f"--concepts_list {path} must be a list of entries, each with instance_data_dir and so on")
    concepts = [
        _concept(config, entry, f"entry {number} of {path}", path.parent)
        for number, entry in enumerate(entries, start=1)
    ]
    names = [folder_name(one) for one in concepts]
    if len(set(names)) < len(names):
        raise UserError(
            f"two entries of {path} have photo folders of the same name ({', '.join(names)}); rename one, since "
            "results are told apart by it"
        )
    _refuse_shared_class_folders(concepts, path)
    return list(map(_prompted, concepts))


def _prompted(config: TrainingConfig) -> TrainingConfig:
    """With the words that kohya's folders are named by as the prompt, if there is no other and all say the same."""
    words = {one.words for one in repeated_folders(Path(str(config.data.instance_data_dir)))}
    if config.data.instance_prompt or config.data.caption_extension or len(words) != 1:
        return config
    return replace(config, data=replace(config.data, instance_prompt=words.pop()))


def _refuse_shared_class_folders(concepts: Sequence[TrainingConfig], path: Path) -> None:
    """One folder of class images cannot show what two class prompts say."""
    prompts: dict[Path, str | None] = {}
    for one in concepts:
        if one.data.with_prior_preservation:
            folder = Path(str(one.data.class_data_dir)).resolve()
            if prompts.setdefault(folder, one.data.class_prompt) != one.data.class_prompt:
                raise UserError(
                    f"two entries of {path} share the class_data_dir {one.data.class_data_dir} but no class_prompt; "
                    "give each a folder of its own"
                )


def folder_name(concept: TrainingConfig) -> str:
    """What a subject's files are called where there are several subjects; empty where there is one."""
    return Path(str(concept.data.instance_data_dir)).resolve().name if concept.data.concepts_list else ""


def _found(name: str, beside: Path) -> str:
    """A path as it is meant: in the working folder, or else beside the list, which may be read from any folder."""
    return name if Path(name).exists() or not (beside / name).exists() else str(beside / name)


def _short(value: Any) -> str:
    """A value as Python writes it, for a message; of a long one the beginning."""
    if isinstance(value, int) and value.bit_length() > LARGEST:
        return "so large a number"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _can_be_given(value: str) -> bool:
    """Whether a command line, and so a path, can hold it: no NUL, and no half of a surrogate pair."""
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _concept(config: TrainingConfig, entry: dict[str, Any], where: str, beside: Path) -> TrainingConfig:
    unknown = set(entry) - set(KEYS)
    if unknown:
        raise UserError(f"{where} has an unknown key {min(map(_short, unknown))}; known: {', '.join(KEYS)}")
    for key, value in entry.items():
        # A switch is no number here, although Python takes it for one.
        if isinstance(value, bool) or not isinstance(value, int if key == "num_class_images" else str):
            raise UserError(f"{where}: {key} cannot be {_short(value)}")
        too_large = isinstance(value, int) and value.bit_length() > LARGEST
        if too_large or (isinstance(value, str) and not _can_be_given(value)):
            raise UserError(f"{where}: {key} cannot be {_short(value)}")
    entry = {key: _found(value, beside) if key in PATHS else value for key, value in entry.items()}
    of_data = {one.name for one in fields(DataConfig)} & set(entry)
    of_mask = {one.name for one in fields(MaskConfig)} & set(entry)
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
