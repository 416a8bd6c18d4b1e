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
from persam_dreambooth.adapter_files import is_adapter_file
from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import check_available
from persam_dreambooth.photos import files
from persam_dreambooth.single_file import SingleFile, is_single_file

WEIGHTS: Final = (".safetensors", ".bin")


@dataclass(frozen=True)
class Model:
    """One of the models to compare.

    Attributes:
        title: name in tables and of its output folder.
        source: a training's output folder, a single file, or a hub name.
    """

    title: str
    source: str

    @property
    def is_lora(self) -> bool:
        """True for LoRA weights, other adapters and learned embeddings, which need a base model."""
        return model_folder.needs_base(Path(self.source)) or is_adapter_file(Path(self.source))

    @property
    def needs_base(self) -> bool:
        """True for weights that need a base model: LoRA and other adapters, and checkpoints."""
        return self.is_lora or bool(model_folder.trained_parts(Path(self.source)))

    def origin(self, given: str | None) -> str | None:
        """Return the model that was trained, as folder or hub name; None if the folder does not say.

        Args:
            given: see `base`; only for weights that need one.
        """
        if self.needs_base:
            return self.base(given)
        return (model_folder.base_model(Path(self.source)) or {}).get("pretrained_model_name_or_path")

    def base(self, given: str | None) -> str | None:
        """Return the folder, file or hub name of the base model of LoRA weights or a checkpoint.

        None for a full model, or if the base model is unknown.

        Args:
            given: the base model given by the user; None reads it from the training's config.
        """
        if not self.needs_base:
            return None
        return given or (model_folder.base_model(Path(self.source)) or {}).get("pretrained_model_name_or_path")

    def weights(self) -> str:
        """Return a digest of the weight files that are loaded, which a new training changes; "" for a hub name.

        Other files in the folder, such as checkpoints or this report, do not count, nor does a LoRA's base.
        """
        folder = Path(self.source)
        others = [path for part in model_folder.adapter_folders(folder) for path in sorted(part.iterdir())]
        beside = (model_folder.LORA_NAME, model_folder.EMBEDDINGS_NAME)
        names = [path.relative_to(folder) for path in others]
        if self.is_lora:
            names += [Path(name) for name in beside if (folder / name).is_file()]
        names = names or _weights_of_parts(folder)
        return _digest(folder, names, self.title)

    def base_weights(self, given: str | None) -> str | None:
        """Return the same digest of a LoRA's base model; None if the base is on the hub, and for a full model."""
        base = self.base(given)
        if base is None:
            return None
        return _digest(Path(base), _weights_of_parts(Path(base)), f"{self.title}'s base") or None


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


def _digest(folder: Path, names: Sequence[Path], title: str) -> str:
    """Return a digest of the names and contents of files; "" for none."""
    if not names:
        return ""
    bar = tqdm(names, f"Comparing, {title}", unit="file", delay=2, leave=False)
    words = [f"{name.as_posix()} {files.digest(folder / name)}" for name in bar]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def name_models(given: Sequence[str]) -> list[Model]:
    """Parse models from `FOLDER`, `hub/name` or `TITLE=FOLDER`; the default title is the last part of the path.

    Raises:
        UserError: two models have the same title, or a title is not a valid folder name.
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
        raise UserError(f"two models have the title {twice[0]!r}; give titles: --model plain=FOLDER masked=OTHER")
    return models


def check_model(model: Model, base_model: str | None, single_file_config: str | None = None) -> None:
    """Check before generation that a model exists, without loading its weights.

    Raises:
        UserError: there is no such model, the base of its LoRA weights is unknown, or a single file cannot be used.
    """
    source = model.base(base_model) if model.needs_base else model.source
    if not source:
        raise UserError(
            f"{Path(model.source)} holds LoRA weights but no {model_folder.CONFIG_NAME} that names their base; "
            "give --base_model"
        )
    what = f"base model of {Path(model.source)}" if model.needs_base else "model"
    if is_single_file(str(source)):
        trained = model_folder.base_model(Path(model.source)) if model.needs_base and not base_model else None
        SingleFile.read(str(source), single_file_config or (trained or {}).get("single_file_config"))
        return
    check_available(str(source), what)
    try:
        if not isinstance(DiffusionPipeline.load_config(source), dict):
            raise TypeError("not a pipeline's index")
    except Exception as error:  # no folder, no network, no JSON: each has its own exception
        raise UserError(
            f"no {what} at {source}: give the --output_dir of a finished training, or a pipeline's hub name"
        ) from error
