"""The models that are compared: what each is called, where it lies, and what tells its weights from others."""

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
from persam_dreambooth.hub import check_available
from persam_dreambooth.photos import files

WEIGHTS: Final = (".safetensors", ".bin")


@dataclass(frozen=True)
class Model:
    """One of the models to compare.

    Attributes:
        title: for tables and its folder.
        source: what training wrote, or a hub name.
    """

    title: str
    source: str

    @property
    def is_lora(self) -> bool:
        """Whether it is LoRA weights, which are nothing without their base model."""
        return (Path(self.source) / model_folder.LORA_NAME).is_file()

    def base(self, given: str | None) -> str | None:
        """Folder or hub name of the model that LoRA weights are loaded into; None for a whole one, or if unknown.

        Args:
            given: what the user says it is; None asks the training's config.
        """
        if not self.is_lora:
            return None
        return given or (model_folder.base_model(Path(self.source)) or {}).get("pretrained_model_name_or_path")

    def weights(self) -> str:
        """A digest of the weight files that are loaded, which a new training changes; "" for a hub name.

        What else lies in the folder, such as checkpoints or this report, does not count, nor does a LoRA's base.
        """
        folder = Path(self.source)
        names = [Path(model_folder.LORA_NAME)] if self.is_lora else _weights_of_parts(folder)
        return _digest(folder, names, self.title)

    def base_weights(self, given: str | None) -> str | None:
        """The same of a LoRA's base model; None where that is on the hub, and for a whole model."""
        base = self.base(given)
        if base is None:
            return None
        return _digest(Path(base), _weights_of_parts(Path(base)), f"{self.title}'s base") or None


def _weights_of_parts(folder: Path) -> list[Path]:
    """A pipeline's weight files, relative to its folder; none where there is no pipeline."""
    if not (folder / model_folder.PIPELINE_INDEX).is_file():
        return []
    named = [name for name in DiffusionPipeline.load_config(folder) if Path(name).name == name not in ("", "..")]
    parts = [folder / name for name in named if (folder / name).is_dir()]
    files_of = (
        sorted(one for part in parts for one in part.rglob(f"*{suffix}") if one.is_file()) for suffix in WEIGHTS
    )
    return [path.relative_to(folder) for paths in files_of for path in paths]


def _digest(folder: Path, names: Sequence[Path], title: str) -> str:
    """Of some files' names and contents; "" for none."""
    if not names:
        return ""
    bar = tqdm(names, f"Comparing, {title}", unit="file", delay=2, leave=False)
    words = [f"{name.as_posix()} {files.digest(folder / name)}" for name in bar]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def name_models(given: Sequence[str]) -> list[Model]:
    """Models from `FOLDER`, `hub/name` or `TITLE=FOLDER`; without a title the last part of the path is it.

    Raises:
        UserError: two have the same title, or one is no folder's name.
    """
    models = []
    for word in given:
        title, sign, source = word.partition("=")
        if not sign or Path(word).exists():
            title, source = Path(word).resolve().name if Path(word).is_dir() else word.rsplit("/", 1)[-1], word
        if not re.fullmatch(r"\w[\w.+ -]*", title) or not source:
            raise UserError(f"--model {word}: give TITLE=FOLDER, its title of letters, digits and dashes")
        models.append(Model(title, source))
    titles = [model.title for model in models]
    twice = [title for title in titles if titles.count(title) > 1]
    if twice:
        raise UserError(f"two models are called {twice[0]!r}; give them titles: --model plain=FOLDER masked=OTHER")
    return models


def check_model(model: Model, base_model: str | None) -> None:
    """Find out, before anything is drawn, that there is a model; its weights are not loaded.

    Raises:
        UserError: there is none, or it is LoRA weights whose base is unknown.
    """
    source = model.base(base_model) if model.is_lora else model.source
    if not source:
        raise UserError(
            f"{Path(model.source)} holds LoRA weights but no {model_folder.CONFIG_NAME} that names their base; "
            "give --base_model"
        )
    what = f"base model of {Path(model.source)}" if model.is_lora else "model"
    check_available(str(source), what)
    try:
        if not isinstance(DiffusionPipeline.load_config(source), dict):
            raise TypeError("not a table of contents")
    except Exception as error:  # no folder, no network, no JSON: each has its own exception
        raise UserError(
            f"no {what} at {source}: give the --output_dir of a finished training, or a pipeline's hub name"
        ) from error
