"""A model to generate with: a folder, a file or a hub name, and the base model of weights that need one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from persam_dreambooth import model_folder
from persam_dreambooth.adapter_files import is_adapter_file
from persam_dreambooth.errors import UserError
from persam_dreambooth.single_file import SingleFile, is_single_file


@dataclass(frozen=True)
class ModelSource:
    """A model as the user gives it; nothing is read until it is asked for.

    Attributes:
        name: a training's output folder, a checkpoint in it, a file of adapters, or a whole model: a pipeline's
            folder, a single file, or a hub name.
        base_model: folder, file or hub name, for weights that need one; None is the one that the training's config
            names.
        single_file_config: folder or hub name of a pipeline with the configs of a single file, the model or its base;
            None is the one of the training, or else the original release on the hub.
        revision: branch, tag or commit on the hub; None is the main branch.
        variant: of a pipeline's weight files, such as "fp16".
    """

    name: str
    base_model: str | None = None
    single_file_config: str | None = None
    revision: str | None = None
    variant: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def path(self) -> Path:
        """The name as a path, which does not exist if it is a hub name."""
        return Path(self.name)

    @property
    def home(self) -> Path:
        """The folder beside whose weights the training's config may lie."""
        return self.path.parent if is_adapter_file(self.path) else self.path

    @property
    def is_lora(self) -> bool:
        """True for LoRA weights, other adapters and learned embeddings, which need a base model."""
        return model_folder.needs_base(self.path) or is_adapter_file(self.path)

    @property
    def needs_base(self) -> bool:
        """True for weights that need a base model: LoRA and other adapters, and checkpoints."""
        return self.is_lora or bool(model_folder.trained_parts(self.path))

    def trained(self) -> "ModelSource | None":
        """Return the model that was trained: the given base model, or the one in the training's config.

        Returns:
            The model; None if unknown.

        Raises:
            UserError: the config is not valid YAML.
        """
        if self.needs_base and self.base_model:
            return replace(self, name=self.base_model)
        known = model_folder.base_model(self.home)
        if known is None:
            return None
        name, config = (known.pop(key) for key in ("pretrained_model_name_or_path", "single_file_config"))
        return replace(self, name=str(name), single_file_config=self.single_file_config or config, **known)

    def whole(self) -> "ModelSource":
        """Return the whole model to load first: this one, or the base model of weights that need one.

        Raises:
            UserError: the base model is unknown, or the training's config is not valid YAML.
        """
        found = self.trained() if self.needs_base else self
        if found is None:
            raise UserError(
                f"{self.path} needs a base model, and there is no {model_folder.CONFIG_NAME} that names it; give "
                "--base_model"
            )
        return found

    def check(self) -> None:
        """Check that the whole model exists and is one, without loading its weights.

        Raises:
            UserError: there is no such model, its base model is unknown, or a single file cannot be used.
        """
        whole, what = self.whole(), f"base model of {self.path}" if self.needs_base else "model"
        if is_single_file(whole.name):
            SingleFile.read(whole.name, whole.single_file_config)
            return
        model_folder.check_available(whole.name, what)
        try:
            if not isinstance(DiffusionPipeline.load_config(whole.name, revision=whole.revision), dict):
                raise TypeError("not a pipeline's index")
        except Exception as error:  # no folder, no network, no JSON: each has its own exception
            raise UserError(
                f"no {what} at {whole}: give the --output_dir of a finished training, or a pipeline's hub name"
            ) from error

    def load_whole(self) -> Any:
        """Load a whole model as diffusers' pipeline.

        Errors are those of diffusers, of `SingleFile.read`, or of `check_tokenizer`.
        """
        if is_single_file(self.name):
            pipeline = SingleFile.read(self.name, self.single_file_config).load_pipeline()
        else:
            pipeline = DiffusionPipeline.from_pretrained(
                self.name, revision=self.revision, variant=self.variant, trust_remote_code=False
            )
        for name, part in pipeline.components.items():
            if name.startswith("tokenizer") and part is not None:
                check_tokenizer(part)
        return pipeline


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer without a vocabulary, which transformers makes if a model's files of it are missing.

    Args:
        tokenizer: of transformers, or a processor with one.

    Raises:
        ValueError: it has the same tokens for all words.
    """
    words = getattr(tokenizer, "tokenizer", tokenizer)
    if words("a", add_special_tokens=False).input_ids == words("b", add_special_tokens=False).input_ids:
        raise ValueError("its tokenizer knows no words, since the file of its vocabulary is missing")
