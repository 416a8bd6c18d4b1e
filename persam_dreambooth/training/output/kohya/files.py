"""Convert a file of LoRA weights from diffusers' format to kohya's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors import safe_open

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import KOHYA_NAME, LORA_NAME, training_settings
from persam_dreambooth.photos.files import check_output_folder
from persam_dreambooth.text_files import is_text
from persam_dreambooth.torch_utils import save_beside
from persam_dreambooth.training.output.kohya.metadata import metadata
from persam_dreambooth.training.output.kohya.weights import to_kohya


def convert_lora(model: Path | str, output: Path | str | None = None) -> Path:
    """Write the LoRA weights of a finished training as A1111, Forge, ComfyUI and sd-scripts read them.

    Args:
        model: the training's `output_dir`, or the `pytorch_lora_weights.safetensors` in it.
        output: a new .safetensors file; None is `pytorch_lora_weights_kohya.safetensors` beside the weights.

    Returns:
        The file.

    Raises:
        UserError: no LoRA weights there, the file exists, or as `convert_file`.
    """
    given = Path(model)
    source = given / LORA_NAME if given.is_dir() else given
    if not source.is_file():
        raise UserError(f"{given} holds no {LORA_NAME}; give the --output_dir of a finished LoRA training")
    target = source.with_name(KOHYA_NAME) if output is None else Path(output)
    if target.suffix != ".safetensors":
        raise UserError(f"--output {target} must end in .safetensors")
    check_output_folder(target.parent)
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} already exists; choose another --output, or delete it")
    title = source.resolve().parent.name if output is None else target.stem
    convert_file(source, target, title, training_settings(source.parent))
    return target


def convert_file(source: Path, target: Path, title: str, settings: Mapping[str, Any]) -> None:
    """Convert LoRA weights from diffusers' format to kohya's, with the metadata that is known.

    Args:
        source: `pytorch_lora_weights.safetensors`, as `load_lora_weights` takes it.
        target: the file to write.
        title: the model's name, as shown by A1111.
        settings: the training's flags, as far as they are known.

    Raises:
        UserError: the file cannot be read, has no LoRA weights, or some that kohya's format cannot express.
        OSError: the target cannot be written.
    """
    for path in (source, target):
        if not is_text(str(path)):
            raise UserError(f"the path {path} has bytes that are not UTF-8, which safetensors cannot open; rename it")
    try:
        with safe_open(source, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            adapters = dict(json.loads((file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}")))
    except FileNotFoundError as error:
        raise UserError(f"no LoRA weights at {source}; check the path") from error
    except Exception as error:  # each layer of the format raises its own exceptions for damage
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(";")[0]
        raise UserError(f"{source} is not a readable safetensors file ({reason}); save it again") from error
    unfit = [key for key, value in state.items() if not (value.is_floating_point() and value.float().isfinite().all())]
    if unfit:
        raise UserError(f"{unfit[0]} in {source} holds values that are not finite; train again")
    converted = to_kohya(state, adapters)
    save_beside(converted, target, metadata(converted, title, settings))
