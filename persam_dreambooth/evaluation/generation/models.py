"""The models to compare: title, location and a digest that identifies the weights."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusers import DiffusionPipeline
from tqdm import tqdm

from persam_dreambooth import model_folder
from persam_dreambooth.errors import UserError
from persam_dreambooth.model_source import ModelSource
from persam_dreambooth.photos import files

WEIGHTS: Final = (".safetensors", ".bin")


@dataclass(frozen=True)
class Model:
    """One of the models to compare.

    Attributes:
        title: name in tables and of its output folder.
        source: what it is loaded from.
    """

    title: str
    source: ModelSource


def digest_of(model: ModelSource) -> str:
    """Return a digest of the weight files that are loaded, which a new training changes; "" for a hub name.

    Other files in the folder, such as checkpoints or this report, do not count, nor does a LoRA's base.
    """
    folder = model.path
    others = [path for part in model_folder.adapter_folders(folder) for path in sorted(part.iterdir())]
    beside = (model_folder.LORA_NAME, model_folder.EMBEDDINGS_NAME)
    names = [path.relative_to(folder) for path in others]
    if model.is_lora:
        names += [Path(name) for name in beside if (folder / name).is_file()]
    return _digest(folder, names or _weights_of_parts(folder))


def base_digest_of(model: ModelSource) -> str | None:
    """Return the same digest of a LoRA's base model; None if the base is on the hub, and for a full model."""
    if not model.needs_base:
        return None
    base = model.whole().path
    return _digest(base, _weights_of_parts(base)) or None


def _weights_of_parts(folder: Path) -> list[Path]:
    """List the weight files of a pipeline or a checkpoint, relative to its folder; empty if there is none.

    The folder may also be a single file, which is then the only one.
    """
    if folder.is_file():
        return [Path()]
    trained = model_folder.trained_parts(folder)
    if not trained and not (folder / model_folder.PIPELINE_INDEX).is_file():
        return []
    named = trained or [
        name for name in DiffusionPipeline.load_config(folder) if Path(name).name == name not in ("", "..")
    ]
    parts = [folder / name for name in named if (folder / name).is_dir()]
    files_of = (
        sorted(path for part in parts for path in part.rglob(f"*{suffix}") if path.is_file()) for suffix in WEIGHTS
    )
    return [path.relative_to(folder) for paths in files_of for path in paths]


def _digest(folder: Path, names: Sequence[Path]) -> str:
    """Return a digest of the names and contents of files; "" for none."""
    if not names:
        return ""
    bar = tqdm(names, f"Comparing, {folder.name}", unit="file", delay=2, leave=False)
    words = [f"{name.as_posix()} {files.digest(folder / name)}" for name in bar]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def name_models(
    given: Sequence[Path | str | Model], base_model: str | None = None, single_file_config: str | None = None
) -> list[Model]:
    """Parse models from `FOLDER`, `hub/name` or `TITLE=FOLDER`; the default title is the last part of the path.

    Args:
        given: what to parse; a `Model` is taken as it is.
        base_model, single_file_config: see `ModelSource`.

    Raises:
        UserError: two models have the same title, or a title is not a valid folder name.
    """
    models = []
    for model in given:
        if isinstance(model, Model):
            models.append(model)
            continue
        word = str(model)
        title, sign, source = word.partition("=")
        if not sign or Path(word).exists():
            title, source = Path(word).resolve().name if Path(word).is_dir() else word.rsplit("/", 1)[-1], word
        if not re.fullmatch(r"\w[\w.+ -]*", title) or not source:
            raise UserError(f"--model {word}: give TITLE=FOLDER, its title of letters, digits and dashes")
        models.append(Model(title, ModelSource(source, base_model, single_file_config)))
    titles = [model.title for model in models]
    twice = [title for title in titles if titles.count(title) > 1]
    if twice:
        raise UserError(f"two models have the title {twice[0]!r}; give titles: --model plain=FOLDER masked=OTHER")
    return models
