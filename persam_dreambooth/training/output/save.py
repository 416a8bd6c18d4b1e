"""Save the trained model in the ecosystem's formats, and upload it."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import create_repo, upload_folder
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from persam_dreambooth.atomic_io import UNFINISHED, replacing
from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.model_folder import CONFIG_NAME, KOHYA_NAME, LORA_NAME, PIPELINE_INDEX
from persam_dreambooth.training.config import TrainingConfig, without_folders
from persam_dreambooth.training.data.mask_report import MASKS_NAME
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.output import lora_metadata
from persam_dreambooth.training.output.kohya import convert_file
from persam_dreambooth.training.output.model_card import Card
from persam_dreambooth.training.runtime.checkpoint import in_words
from persam_dreambooth.training.runtime.validation import VALIDATION_FOLDER

LAST_WRITTEN = (PIPELINE_INDEX, LORA_NAME)
"""Files by which other programs recognize a model; they are written after everything else."""
HUB_FOLDER = "hub"
"""Folder for the files of an upload, until it is done."""


def save_model(family: Family, config: TrainingConfig, described: Mapping[str, str]) -> list[str]:
    """Save the trained model to the output folder: written to a temporary folder, then moved, its index last.

    Args:
        family: as trained.
        config: the run's flags.
        described: metadata for the header of LoRA weights, from `lora_metadata.describe`.

    Returns:
        Names of the model's files and folders.

    Raises:
        UserError: it cannot be written; or kohya's format cannot hold it (the rest is saved nevertheless).
    """
    output = Path(config.output.output_dir)
    try:
        return _save_model(family, config, output, described)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the model cannot be written ({first_line(error)}); {in_words(output)}; check the free space "
            f"of {output}, then resume with the same command and --resume_from_checkpoint latest"
        ) from error


def _save_model(family: Family, config: TrainingConfig, output: Path, described: Mapping[str, str]) -> list[str]:
    if not (output / CONFIG_NAME).exists():  # the folder was deleted during the training
        config.save(output / CONFIG_NAME)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=output) as name:
        beside = Path(name)
        dtype = torch.float32 if config.output.upcast_before_saving else family.dtype
        family.save(beside, config.output.skip_save_text_encoder, dtype)
        forget_origin(beside)
        for path in (*beside.glob(LORA_NAME), *beside.glob(f"*/{SAFETENSORS_WEIGHTS_NAME}")):
            lora_metadata.add(path, described)
        parts = sorted(beside.iterdir(), key=lambda path: path.name in LAST_WRITTEN)
        for path in parts:
            target = output / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    written = [path.name for path in parts]
    if config.output.output_kohya_format:
        source = output / LORA_NAME if config.model.adapter_type == "lora" else output
        convert_file(source, output / KOHYA_NAME, output.resolve().name, config.flat())
        written.append(KOHYA_NAME)
    return written


def claim_repository(config: TrainingConfig) -> str | None:
    """Create the hub repository before training, so that a wrong token fails at once and not after hours.

    Returns:
        Its name; None without `--push_to_hub`.

    Raises:
        UserError: the hub refuses or cannot be reached.
    """
    output = config.output
    if not output.push_to_hub:
        return None
    name = output.hub_model_id or Path(output.output_dir).resolve().name
    try:
        return create_repo(repo_id=name, exist_ok=True, token=output.hub_token).repo_id
    except Exception as error:  # the hub client raises its own, its HTTP library's and plain OSErrors
        reason = type(error).__name__  # not the message: it may repeat the request's headers
        raise UserError(
            f"--push_to_hub: the repository {name} cannot be created ({reason}); log in with `hf auth login`, "
            "check the network, or drop the flag"
        ) from None


def upload(config: TrainingConfig, repository: str, model: Sequence[str], card: Card) -> None:
    """Upload the model, its card, its config and the validation pictures to the hub.

    Nothing that shows the photos is uploaded (except with `--push_masks_to_hub`), nor any local path.

    Args:
        config: the run's flags.
        repository: from `claim_repository`.
        model: from `save_model`.
        card: is written again, in its public version.

    Raises:
        UserError: the upload failed; its files stay in `hub/`.
    """
    output = Path(config.output.output_dir)
    folder = collect_public(config, model, card)
    try:
        upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="End of training",
            token=config.output.hub_token,
        )
    except Exception as error:  # as above
        raise UserError(
            f"the upload to {repository} failed ({type(error).__name__}); the model is in {output}; upload it later: "
            f"`hf upload {repository} {folder}`"
        ) from None
    shutil.rmtree(folder)


def collect_public(config: TrainingConfig, model: Sequence[str], card: Card) -> Path:
    """Collect the files to upload, and nothing else, in `hub/`; return that folder.

    An allow list, so that files which a later version writes are not uploaded by mistake.
    """
    output = Path(config.output.output_dir)
    folder = output / HUB_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    shown = [MASKS_NAME] if config.output.push_masks_to_hub else []
    for name in (*model, VALIDATION_FOLDER, *shown):
        path = output / name
        for source in [path] if path.is_file() else path.rglob("*"):
            if source.is_file():
                _link(source, folder / source.relative_to(output))
    config.save(folder, public=True)
    card.save(folder, public=True)
    return folder


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def forget_origin(model: Path) -> None:
    """Reduce the `name_or_path` in a saved model's files to the last part of the path.

    The libraries write it into every `config.json` and into the metadata of LoRA weights; none of
    them reads it again.

    Args:
        model: a folder with a pipeline or with LoRA weights.
    """
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
