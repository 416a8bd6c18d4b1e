"""Metadata in the header of LoRA weights, for the programs that list LoRAs: base model, trigger words, tags, size.

The keys are those of sd-scripts (`ss_...`) and of Stability's ModelSpec (`modelspec....`). No date is among them, so
that a resumed run writes the same file as an uninterrupted one.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.model_folder import subject_words
from persam_dreambooth.photos.files import digest
from persam_dreambooth.photos.manifest import MANIFEST_NAME
from persam_dreambooth.text_files import readable
from persam_dreambooth.training.config import TrainingConfig, without_folders
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.data.dataset import InstancePhoto
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.families.loading import unwrapped
from persam_dreambooth.training.output.kohya_header import BASES, PIPELINE_KEY

MASKS_KEY = "persam_masks_sha256"
"""SHA-256 of the run's `manifest.jsonl`, which has the digests of all photos and masks."""
HEADS = ("num_attention_heads", "attention_head_dim")
WIDTHS: dict[str, tuple[str, ...]] = {
    # By diffusers' class of the pipeline: the entries of the denoiser's config whose product is the width in `BASES`.
    "StableDiffusionPipeline": ("cross_attention_dim",),
    "StableDiffusionXLPipeline": ("cross_attention_dim",),
    "Lumina2Pipeline": ("hidden_size",),
    "ZImagePipeline": ("dim",),
}


def describe(
    family: Family, config: TrainingConfig, concepts: Sequence[Concept], photos: Sequence[InstancePhoto]
) -> dict[str, str]:
    """Return the metadata of a run's LoRA weights; values that are unknown are left out.

    Captions of single photos are counted among the tags, but not if the weights are uploaded to the hub.

    Args:
        family: as trained.
        config: the run's flags.
        concepts: the subjects.
        photos: all photos that were trained on.
    """
    model, title, side = config.model, Path(config.output.output_dir).resolve().name, config.data.resolution
    prompts = list(dict.fromkeys(concept.prompt for concept in concepts if concept.prompt))
    words = list(dict.fromkeys(word for prompt in prompts for word in subject_words(prompt, None)))
    masks = digest(Path(config.output.output_dir) / MANIFEST_NAME) if config.mask.masked_loss else None
    known: dict[str, Any] = _base(family) | {
        "ss_output_name": title,
        "ss_sd_model_name": without_folders(str(model.pretrained_model_name_or_path)),
        "ss_network_dim": model.rank,
        "ss_network_alpha": float(model.rank or 0) if model.lora_alpha is None else float(model.lora_alpha),
        "ss_max_token_length": model.max_token_length,
        "ss_resolution": f"({side}, {side})",
        "ss_learning_rate": config.optimization.learning_rate,
        "ss_seed": config.optimization.seed,
        "ss_num_train_images": sum(photo.repeats for photo in photos),
        "ss_dataset_dirs": json.dumps(_folders(photos)),
        "ss_tag_frequency": json.dumps(_tags(photos, concepts, config.output.push_to_hub), ensure_ascii=False),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.trigger_phrase": ", ".join(prompts) or None,
        "modelspec.tags": ", ".join(words) or None,
        MASKS_KEY: masks or None,
    }
    return {key: readable(str(value)) for key, value in known.items() if value is not None}


def _base(family: Family) -> dict[str, Any]:
    """Return the base model's version, architecture and prediction type, from the family and the denoiser's width."""
    config = unwrapped(getattr(family, family.denoiser[0])).config
    pipeline = family.pipeline_class.__name__
    width = prod(size if isinstance(size := config.get(name), int) else 0 for name in WIDTHS.get(pipeline, HEADS))
    version, architecture = BASES[pipeline][1].get(width, (None, None))
    is_velocity = family.prediction_type == "v_prediction"
    if version == "sd_v2":
        version += "_v" if is_velocity else ""
        architecture = f"stable-diffusion-v2-{'768-v' if is_velocity else '512'}/lora"
    if version == "flux1":
        architecture = f"flux-1-{'dev' if config.guidance_embeds else 'schnell'}/lora"
    return {
        PIPELINE_KEY: pipeline,
        "ss_base_model_version": version,
        "ss_v2": version and version.startswith("sd_v2"),
        "modelspec.architecture": architecture,
        "modelspec.prediction_type": {"epsilon": "epsilon", "v_prediction": "v"}.get(family.prediction_type),
    }


def _folders(photos: Sequence[InstancePhoto]) -> dict[str, dict[str, int]]:
    """Return each folder's number of photos and of repeats."""
    folders: dict[str, dict[str, int]] = {}
    for photo in photos:
        folder = folders.setdefault(_folder(photo), {"n_repeats": photo.repeats, "img_count": 0})
        folder["img_count"] += 1
    return folders


def _tags(photos: Sequence[InstancePhoto], concepts: Sequence[Concept], public: bool) -> dict[str, dict[str, int]]:
    """Count for each folder the parts of its prompts between commas, in lower case, as sd-scripts does.

    If `public`, a photo's caption counts as its subject's prompt.
    """
    counts = defaultdict[str, Counter[str]](Counter)
    for photo in photos:
        prompt = (concepts[photo.concept].prompt or "") if public else photo.prompt
        counts[_folder(photo)].update(tag for part in prompt.split(",") if (tag := part.strip().lower()))
    return {folder: dict(tags) for folder, tags in counts.items()}


def _folder(photo: InstancePhoto) -> str:
    return readable(photo.photo.absolute().parent.name)


def add(path: Path, described: Mapping[str, str]) -> None:
    """Add entries to the metadata of a safetensors file, which is rewritten."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    with replacing(path) as temporary:
        save_file(state, temporary, metadata | dict(described))
