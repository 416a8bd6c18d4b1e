"""How a trained model's folder is recognized, by those who write it and those who read it."""

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
