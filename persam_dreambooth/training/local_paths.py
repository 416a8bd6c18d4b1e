"""Strip local paths from saved and uploaded files."""

import json
from pathlib import Path
from typing import Any

from persam_dreambooth.atomic_io import replacing


def without_folders(value: Any) -> Any:
    """Return the last part of a path; any other setting (a number, a prompt, a hub name) as it is."""
    if not isinstance(value, str):
        return value
    path = Path(value)
    try:
        return path.name if path.is_absolute() or path.exists() else value
    except OSError:  # too long for a file name, such as a long prompt
        return value


def forget_origin(model: Path) -> None:
    """Reduce the `name_or_path` in a saved model's files to the last part of the path.

    The libraries write it into every `config.json` and into the metadata of LoRA weights; none of
    them reads it again.

    Args:
        model: a folder with a pipeline or with LoRA weights.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file  # loads torch, which parsing flags does not need

    for path in (*model.glob("model_index.json"), *model.glob("*/*config.json")):
        text = path.read_text(encoding="utf-8")
        values = json.loads(text, object_hook=_without_origin)
        if values != json.loads(text):
            path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    for path in model.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if not any("name_or_path" in value for value in metadata.values()):
                continue
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        known = {
            key: json.dumps(json.loads(value, object_hook=_without_origin), indent=2, sort_keys=True)
            for key, value in metadata.items()
            if "name_or_path" in value
        }
        with replacing(path) as temporary:
            save_file(state, temporary, metadata | known)


def _without_origin(values: dict[str, Any]) -> dict[str, Any]:
    return {key: without_folders(value) if key.endswith("name_or_path") else value for key, value in values.items()}
