"""Load a transformers model by hub name or folder, after checking that it is of an expected type and complete."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers import AutoImageProcessor, AutoProcessor, PretrainedConfig
from transformers.utils import logging

from persam_dreambooth.errors import UserError, is_out_of_memory
from persam_dreambooth.model_folder import check_available


@contextmanager
def without_bars() -> Iterator[None]:
    """Disable transformers' progress bars for the duration of a `with` block, then restore the user's setting."""
    shown, downloads = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if downloads:  # the call above disables download bars too, and downloads can take minutes
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def check_pretrained(name: str, classes: Collection[str], what: str, examples: str) -> str:
    """Check by its config alone that a model is there and of an expected type; return its model_type.

    Args:
        name: hub name or folder.
        classes: the model_types that are expected.
        what: the kind of model expected, for messages: "SAM".
        examples: valid alternatives, for messages.

    Raises:
        UserError: nothing found, or another kind of model.
    """
    if (Path(name) / "model_index.json").is_file():
        raise UserError(f"{name} is not a {what} but a diffusers pipeline; give a {what}, such as {examples}")
    check_available(name, what)
    try:
        config, _ = PretrainedConfig.get_config_dict(name, trust_remote_code=False)
    except Exception as error:  # no folder, no network, no JSON: the exception differs between transformers versions
        raise UserError(
            f"no {what} at {name!r}: no such folder or hub model could be read; give a folder with a config.json, or "
            f"a hub name such as {examples}"
        ) from error
    if not isinstance(config, dict) or not config:
        raise UserError(f"{name} is not a {what}: its config.json is missing or empty; give {examples}")
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in classes:
        raise UserError(
            f"{name} is not a {what}: its config.json has the model_type {json.dumps(kind)}; "
            f"supported are {', '.join(classes)}"
        )
    return kind


def load_pretrained(name: str, classes: Mapping[str, type[Any]], what: str, examples: str) -> tuple[Any, str]:
    """Load a model and return it with the model_type of its config.json.

    Args:
        name: hub name or folder.
        classes: model_type -> the class that loads it.
        what: as for `check_pretrained`.
        examples: likewise.

    Raises:
        UserError: as `check_pretrained`, damaged files, or missing weights.
    """
    kind = check_pretrained(name, classes, what, examples)
    try:
        with without_bars():
            model, report = classes[kind].from_pretrained(name, output_loading_info=True, trust_remote_code=False)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the {what} at {name} needs a package that is not installed: {reason}") from error
    except Exception as error:  # for damaged files safetensors, pickle and the config's checks each raise their own
        if is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the {what} at {name} cannot be loaded ({reason}); it is damaged, download it again"
        ) from error
    if report["missing_keys"]:
        # transformers initializes missing weights randomly and goes on; the masks would be noise.
        raise UserError(
            f"{name} lacks {len(report['missing_keys'])} of a {what}'s weights (for example "
            f"{sorted(report['missing_keys'])[0]}); it is damaged or not a {what}"
        )
    return model, kind


def load_image_processor(name: str) -> Any:
    """Load a model's transformers image processor.

    Args:
        name: hub name or folder of a model that `load_pretrained` loaded.

    Raises:
        UserError: no preprocessor_config.json that can be read.
    """
    try:
        return AutoImageProcessor.from_pretrained(name, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # no file, no JSON, an unknown class: each has its own exception
        raise UserError(
            f"{name} has no preprocessor_config.json that can be read, and without it images cannot be "
            "preprocessed; download the model again"
        ) from error


def load_processor(name: str, processor_class: Any = AutoProcessor) -> Any:
    """Load a model's transformers processor, which prepares its images and text.

    Args:
        name: hub name or folder of a model that `load_pretrained` loaded.
        processor_class: needed where the files name another class than the one that fits the model.

    Raises:
        UserError: its files are missing or damaged, or need a package that is not installed.
    """
    try:
        processor = processor_class.from_pretrained(name, trust_remote_code=False)
        tokenizer = processor.tokenizer
        if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
            raise LookupError("without its files, transformers makes a tokenizer that knows no word")
        return processor
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the tokenizer of {name} needs a package that is not installed: {reason}") from error
    except Exception as error:  # no file, no JSON, an unknown class: each has its own exception
        raise UserError(
            f"{name} lacks its tokenizer or preprocessor_config.json, or they cannot be read; download the model again"
        ) from error
