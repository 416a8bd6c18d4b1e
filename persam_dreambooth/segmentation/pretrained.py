"""Load a transformers model by hub name or folder, after making sure that it is one of those wanted, and whole."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers import PretrainedConfig
from transformers.utils import logging

from persam_dreambooth.errors import UserError, is_out_of_memory
from persam_dreambooth.hub import check_available


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers from drawing progress bars of its own; a user's own setting comes back afterwards."""
    shown, downloads = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if downloads:  # which that disables too, and which can take minutes
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_pretrained(name: str, classes: Mapping[str, type[Any]], what: str, examples: str) -> tuple[Any, str]:
    """A model, and the model_type that its config.json gives.

    Args:
        name: hub name or folder.
        classes: model_type -> the class that loads it.
        what: what is wanted, for people: "SAM".
        examples: what else could be given instead, for people.

    Raises:
        UserError: nothing there, another model's folder, a damaged one or one with weights missing.
    """
    if (Path(name) / "model_index.json").is_file():
        raise UserError(f"{name} is not a {what} but a diffusers pipeline; give a {what}, such as {examples}")
    check_available(name, what)
    try:
        config, _ = PretrainedConfig.get_config_dict(name, trust_remote_code=False)
    except Exception as error:  # no folder, no network, no JSON: each version of transformers has its own names for it
        raise UserError(
            f"no {what} at {name!r}: no such folder or hub model could be read; give a folder with a config.json, "
            f"a hub name such as {examples}"
        ) from error
    if not isinstance(config, dict) or not config:
        raise UserError(f"{name} is not a {what}: it has no config.json, or one that says nothing")
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in classes:
        raise UserError(
            f"{name} is not a {what}: its config.json says model_type {json.dumps(kind)}; "
            f"known are {', '.join(classes)}"
        )
    try:
        with without_bars():
            model, report = classes[kind].from_pretrained(name, output_loading_info=True, trust_remote_code=False)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the {what} at {name} needs a package that is not installed: {reason}") from error
    except Exception as error:  # damaged files raise what safetensors, pickle and the config's checks each call it
        if is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the {what} at {name} cannot be loaded ({reason}); it is damaged, download it again"
        ) from error
    if report["missing_keys"]:
        # transformers fills what is missing with random numbers and goes on; the masks would be noise.
        raise UserError(
            f"{name} lacks {len(report['missing_keys'])} of a {what}'s weights (for example "
            f"{sorted(report['missing_keys'])[0]}); it is damaged or not a {what}"
        )
    return model, kind
