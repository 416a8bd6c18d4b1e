"""How a trained model's folder is recognized, by those who write it and those who read it."""

import hashlib
from pathlib import Path
from typing import Any

from persam_dreambooth.errors import UserError
from persam_dreambooth.yaml_files import read_yaml

CONFIG_NAME = "training_config.yaml"
LORA_NAME = "pytorch_lora_weights.safetensors"  # diffusers' name for LoRA weights
KOHYA_NAME = "pytorch_lora_weights_kohya.safetensors"  # diffusers takes no file of this name for its own
PIPELINE_INDEX = "model_index.json"  # diffusers' name for a pipeline's table of contents


def base_model(folder: Path) -> dict[str, str | None] | None:
    """What the weights in a folder were trained on, from the config beside them.

    Returns:
        `pretrained_model_name_or_path`, `revision` and `variant`; None where that is unknown.

    Raises:
        UserError: the config is no YAML.
    """
    settings = training_settings(folder)
    if not settings.get("pretrained_model_name_or_path"):
        return None
    return {key: settings.get(key) for key in ("pretrained_model_name_or_path", "revision", "variant")}


def training_settings(folder: Path) -> dict[str, Any]:
    """Every flag of the training that wrote a folder; empty where that is unknown.

    Raises:
        UserError: the config is no YAML.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        settings = read_yaml(path, "config")
    except UserError as error:
        raise UserError(f"{path} is damaged; delete it to go on without it") from error
    return settings if isinstance(settings, dict) else {}


def weights_digest(folder: Path) -> str:
    """A digest of the weights that training left in a folder, which a new training changes; "" for no folder."""
    lora = folder / LORA_NAME
    paths = (
        [lora]
        if lora.is_file()
        else [path for kind in ("safetensors", "bin") for path in sorted(folder.glob(f"*/*.{kind}")) if path.is_file()]
    )
    if not (lora.is_file() or (folder / PIPELINE_INDEX).is_file()):
        return ""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(
                f"{path.relative_to(folder).as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode()
            )
    return total.hexdigest()[:16]


COMMON = {"a", "an", "the", "one", "my", "photo", "picture", "image", "painting", "drawing", "of", "in", "on"}
"""Words of a prompt that are no subject's name."""


def trained_token(folder: Path) -> str | None:
    """The word by which a trained model knows its subject, from its instance prompt; None where that is unknown.

    Of the words that the class prompt does not have, or, without one, of all but the last, the first uncommon one.

    Raises:
        UserError: the config is no YAML.
    """
    settings = training_settings(folder)
    prompt, of_class = settings.get("instance_prompt"), settings.get("class_prompt")
    if not isinstance(prompt, str) or settings.get("concepts_list"):
        return None
    words = prompt.split()
    known = (
        set(of_class.lower().split())
        if isinstance(of_class, str) and of_class
        else {words[-1].lower()}
        if words
        else set()
    )
    return next((word for word in words if word.lower() not in known | COMMON), None)
