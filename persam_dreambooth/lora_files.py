"""LoRA files in diffusers' format: find them by file or folder, and read rank and alpha from the header."""

import json
from pathlib import Path

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import LORA_NAME

DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight", "_lora.down.weight")
"""Name suffixes of the down-projection matrices, in diffusers' formats since 2023."""
KOHYA = ("lora_unet_", "lora_te", "lora_transformer_")
DORA = ("lora_magnitude_vector", "dora_scale")


def lora_file(name: str) -> Path:
    """Return the file that `--network_weights` names, or `pytorch_lora_weights.safetensors` if it names a folder.

    Raises:
        UserError: no such file.
    """
    path = Path(name)
    file = path / LORA_NAME if path.is_dir() else path
    if not file.is_file():
        missing = f"no {LORA_NAME} in it" if path.is_dir() else "no such file"
        raise UserError(
            f"--network_weights {name}: {missing}; give a LoRA's .safetensors file, or the --output_dir of a finished "
            "LoRA training"
        )
    return file


def rank_and_alpha(name: str, use_dora: bool) -> tuple[int, int]:
    """Read rank and alpha from a LoRA file, without its weights.

    Args:
        name: as `lora_file` takes it.
        use_dora: whether DoRA's magnitudes must be there, or must not.

    Raises:
        UserError: the file is not in diffusers' format, has several ranks or alphas, or contradicts `use_dora`.
    """
    from safetensors import SafetensorError, safe_open

    path, said = lora_file(name), f"--network_weights {name}"
    try:
        with safe_open(path, framework="pt") as file:
            keys, metadata = list(file.keys()), dict(file.metadata() or {})
            ranks = {file.get_slice(key).get_shape()[0] for key in keys if key.endswith(DOWN)}
        alphas = _alphas(metadata)
    except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{said} cannot be read ({str(error).splitlines()[0][:200]}); give a .safetensors file"
        ) from error
    if any(key.startswith(KOHYA) for key in keys):
        raise UserError(
            f"{said} is in kohya's format; give the file in diffusers' format, such as {LORA_NAME} of its training"
        )
    if len(ranks) != 1:
        found = f"adapters of ranks {', '.join(map(str, sorted(ranks)))}" if ranks else "no LoRA weights of diffusers'"
        raise UserError(f"{said} holds {found}; give a LoRA of one rank in diffusers' format")
    (rank,) = ranks
    if len(alphas) > 1:
        raise UserError(f"{said} has adapters of several alphas; give a LoRA of one rank and one alpha")
    has_magnitudes = any(word in key for key in keys for word in DORA)
    if has_magnitudes != use_dora:
        raise UserError(f"{said} {'was' if has_magnitudes else 'was not'} trained with --use_dora; give the same here")
    return rank, alphas.pop() if alphas else rank


def _alphas(metadata: dict[str, str]) -> set[int]:
    """Return the alphas in diffusers' metadata; where there are none, alpha is the rank."""
    values = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    alphas = {float(value) for key, value in values.items() if key.endswith("lora_alpha")}
    if any(alpha != int(alpha) or alpha < 1 for alpha in alphas):
        raise ValueError(f"its alpha is {min(alphas):g}, not a whole number from 1")
    return {int(alpha) for alpha in alphas}
