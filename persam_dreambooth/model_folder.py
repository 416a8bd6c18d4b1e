"""Layout of a trained model's folder, shared by the code that writes it and the code that reads it."""

import hashlib
from pathlib import Path
from typing import Any

from persam_dreambooth.errors import UserError
from persam_dreambooth.words import subject_words
from persam_dreambooth.yaml_files import read_yaml

CONFIG_NAME = "training_config.yaml"
LORA_NAME = "pytorch_lora_weights.safetensors"  # diffusers' name for LoRA weights
KOHYA_NAME = "pytorch_lora_weights_kohya.safetensors"  # a name that diffusers does not load
PIPELINE_INDEX = "model_index.json"  # diffusers' name for a pipeline's table of contents


def base_model(folder: Path) -> dict[str, str | None] | None:
    """Return the base model of the weights in a folder, from the config beside them.

    Returns:
        `pretrained_model_name_or_path`, `revision` and `variant`; None if unknown.

    Raises:
        UserError: the config is not valid YAML.
    """
    settings = training_settings(folder)
    if not settings.get("pretrained_model_name_or_path"):
        return None
    return {key: settings.get(key) for key in ("pretrained_model_name_or_path", "revision", "variant")}


def training_settings(folder: Path) -> dict[str, Any]:
    """Return every flag of the training run that wrote a folder; empty if unknown.

    Raises:
        UserError: the config is not valid YAML.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        settings = read_yaml(path, "config")
    except UserError as error:
        raise UserError(f"{path} is damaged; delete it to continue without it") from error
    return settings if isinstance(settings, dict) else {}


def weights_digest(folder: Path) -> str:
    """Return a digest of the weights that training left in a folder; "" if there are none."""
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


def trained_token(folder: Path) -> str | None:
    """Return the identifier of a trained model's subject, from its prompts; None if unknown.

    Raises:
        UserError: the config is not valid YAML.
    """
    settings = training_settings(folder)
    prompt, class_prompt = settings.get("instance_prompt"), settings.get("class_prompt")
    if not isinstance(prompt, str) or settings.get("concepts_list"):
        return None
    own = subject_words(prompt, class_prompt if isinstance(class_prompt, str) else None)
    # Without a class prompt the last of several words is taken for the class noun.
    return own[0] if own and (class_prompt or len(own) > 1) else None
