"""Layout of trained models in folders and on the hub, for the code that writes them and the code that reads them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.text_files import read_yaml

CONFIG_NAME = "training_config.yaml"
LORA_NAME = "pytorch_lora_weights.safetensors"  # diffusers' name for LoRA weights
EMBEDDINGS_NAME = "learned_embeds.safetensors"  # diffusers' name for the embeddings of textual inversion
KOHYA_NAME = "pytorch_lora_weights_kohya.safetensors"  # a name that diffusers does not load
ADAPTER_CONFIG = "adapter_config.json"  # peft's name for the config beside an adapter's weights
ADAPTER_NAMES = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "oft": "OFT"}
"""Names of the kinds of adapters by `--adapter_type`."""
ADAPTED = ("unet", "transformer", "text_encoder", "text_encoder_2")
"""Parts of pipelines that may have adapters, and the names of their folders."""
PIPELINE_INDEX = "model_index.json"  # diffusers' name for a pipeline's table of contents
CHECKPOINT_PREFIX = "checkpoint-"
PROGRESS_NAME = "progress.json"
"""The last file of a checkpoint to be written."""
EMA_NAME = "ema.safetensors"
"""The moving average of the weights in a checkpoint."""


def base_model(folder: Path) -> dict[str, str | None] | None:
    """Return the base model of the weights in a folder, from the config beside them.

    Returns:
        `pretrained_model_name_or_path`, `revision`, `variant` and `single_file_config`; None if unknown.

    Raises:
        UserError: the config is not valid YAML.
    """
    settings = training_settings(folder)
    if not settings.get("pretrained_model_name_or_path"):
        return None
    names = ("pretrained_model_name_or_path", "revision", "variant", "single_file_config")
    return {key: settings.get(key) for key in names}


def training_settings(folder: Path) -> dict[str, Any]:
    """Return every flag of the training run that wrote a folder, or one of its checkpoints; empty if unknown.

    Raises:
        UserError: the config is not valid YAML.
    """
    path = (folder.absolute().parent if is_checkpoint(folder) else folder) / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        settings = read_yaml(path, "config")
    except UserError as error:
        raise UserError(f"{path} is damaged; delete it to continue without it") from error
    return settings if isinstance(settings, dict) else {}


def adapter_folders(folder: Path) -> list[Path]:
    """Return the folders of a training's adapters other than LoRA, sorted; each is named after the part it adapts."""
    if (folder / PIPELINE_INDEX).is_file() or (folder / LORA_NAME).is_file():
        return []
    found = sorted(path.parent for path in folder.glob(f"*/{ADAPTER_CONFIG}") if path.parent.name in ADAPTED)
    is_whole = any(part.name in ADAPTED[:2] for part in found)  # the denoiser's folder is written last
    return found if is_whole else []


def needs_base(folder: Path) -> bool:
    """Return whether a folder holds LoRA weights, other adapters or learned embeddings, each beside a base model."""
    words = (folder / EMBEDDINGS_NAME).is_file() and not (folder / PIPELINE_INDEX).is_file()
    return words or (folder / LORA_NAME).is_file() or bool(adapter_folders(folder))


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a complete checkpoint of a training run."""
    return folder.absolute().name.startswith(CHECKPOINT_PREFIX) and (folder / PROGRESS_NAME).is_file()


def checkpoints(output: Path) -> list[Path]:
    """List the complete checkpoints of a run, oldest first."""
    numbered = (
        path for path in output.glob(f"{CHECKPOINT_PREFIX}*") if path.name.removeprefix(CHECKPOINT_PREFIX).isdecimal()
    )
    found = [path for path in numbered if (path / PROGRESS_NAME).exists()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(CHECKPOINT_PREFIX)))


def trained_parts(folder: Path) -> list[str]:
    """Return the names of the whole parts in a checkpoint, such as "unet"; none with LoRA."""
    return sorted(path.parent.name for path in folder.glob("*/config.json")) if is_checkpoint(folder) else []


def weights_digest(folder: Path) -> str:
    """Return a digest of the weights that training left in a folder, or of a single file; "" if there are none."""
    lora, adapters = folder / LORA_NAME, adapter_folders(folder)
    if folder.is_file():
        with folder.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    paths = (
        [lora]
        if lora.is_file()
        else [path for kind in ("safetensors", "bin") for path in sorted(folder.glob(f"*/*.{kind}")) if path.is_file()]
    )
    if adapters:
        paths = [path for part in adapters for path in sorted(part.iterdir()) if path.is_file()]
    if needs_base(folder) and (folder / EMBEDDINGS_NAME).is_file():
        paths.append(folder / EMBEDDINGS_NAME)
    if not (needs_base(folder) or (folder / PIPELINE_INDEX).is_file() or is_checkpoint(folder)):
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
    return identifier(training_settings(folder))


def identifier(settings: Mapping[str, Any]) -> str | None:
    """Return the identifier of the subject of a run with these flags, from its prompts; None if unknown."""
    prompt, class_prompt = settings.get("instance_prompt"), settings.get("class_prompt")
    if not isinstance(prompt, str) or settings.get("concepts_list"):
        return None
    own = subject_words(prompt, class_prompt if isinstance(class_prompt, str) else None)
    # Without a class prompt the last of several words is taken for the class noun.
    return own[0] if own and (class_prompt or len(own) > 1) else None


def trained_class(folder: Path) -> str | None:
    """Return the class noun of a trained model's subject, from its prompts; None if unknown.

    Raises:
        UserError: the config is not valid YAML.
    """
    return class_word(training_settings(folder))


def class_word(settings: Mapping[str, Any]) -> str | None:
    """Return the class noun of the subject of a run with these flags, from its prompts; None if unknown."""
    prompts = [settings.get(name) for name in ("class_prompt", "instance_prompt")]
    prompt = next((prompt for prompt in prompts if isinstance(prompt, str)), None)
    if prompt is None or settings.get("concepts_list"):
        return None
    own = [word for word in subject_words(prompt, None) if word != identifier(settings)]
    return own[-1] if own else None


PLAIN = {
    *("a", "an", "the", "of", "my", "one", "this", "that", "in", "on", "with", "and"),
    *("photo", "photograph", "picture", "image", "painting", "drawing", "close-up", "closeup", "portrait"),
}
"""Words of a prompt that do not name a subject."""


def subject_words(prompt: str, class_prompt: str | None) -> list[str]:
    """Return the words of a prompt that are neither plain nor in the class prompt, in their order.

    With a class prompt these are the identifier; without one, the identifier and the class noun.
    """
    common = {*PLAIN, *(_words((class_prompt or "").lower()))}
    return [word for word in _words(prompt) if word.lower() not in common]


def _words(text: str) -> list[str]:
    stripped = (word.strip(",.;:!?()\"'") for word in text.split())
    return [word for word in stripped if word]


DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight", "_lora.down.weight")
"""Name suffixes of the down-projection matrices, in diffusers' formats since 2023."""
KOHYA_LAYERS = ("lora_unet_", "lora_te", "lora_transformer_")
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
        raise UserError(f"{said} cannot be read ({first_line(error)[:200]}); give a .safetensors file") from error
    if any(key.startswith(KOHYA_LAYERS) for key in keys):
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
        trained, advice = ("with", "add it here") if has_magnitudes else ("without", "drop it here")
        raise UserError(f"{said} was trained {trained} --use_dora; {advice}")
    return rank, alphas.pop() if alphas else rank


def _alphas(metadata: dict[str, str]) -> set[int]:
    """Return the alphas in diffusers' metadata; where there are none, alpha is the rank."""
    values = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    alphas = {float(value) for key, value in values.items() if key.endswith("lora_alpha")}
    if any(alpha != int(alpha) or alpha < 1 for alpha in alphas):
        raise ValueError(f"its alpha is {min(alphas):g}, not a whole number from 1")
    return {int(alpha) for alpha in alphas}


TIMEOUT = 10.0
"""Seconds to wait for the hub's answer."""


def check_available(name: str, what: str) -> None:
    """Refuse a hub name that is neither cached nor reachable, before a library retries for half a minute.

    Makes one request, and only if the name is no local path and nothing is cached under it.

    Args:
        name: hub name, file or folder.
        what: the model's role, for messages: "base model".

    Raises:
        UserError: the hub cannot be reached and nothing is cached under the name.
    """
    # Imported here: it takes a quarter of a second, which --help should not pay for.
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if Path(name).exists() or _is_cached(name, Path(constants.HF_HUB_CACHE)):
        return
    try:
        validate_repo_id(name)
    except HFValidationError:
        return  # not a hub name but a path that does not exist; the caller reports it
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=TIMEOUT)
            return
        except HfHubHTTPError:
            return  # the hub answered, if only that there is no such file
        except Exception as error:  # each HTTP library has its own exceptions for a network that is down
            reason = type(error).__name__
    raise UserError(
        f"no {what} at {name!r}: no such folder, nothing is cached under that name, and the hub cannot be reached "
        f"({reason}); check the network, or give a folder on this machine"
    )


def _is_cached(name: str, cache: Path) -> bool:
    """Return whether any file of a model has been downloaded."""
    snapshots = cache / f"models--{name.replace('/', '--')}" / "snapshots"
    return any(path.is_file() for path in snapshots.glob("*/**/*"))
