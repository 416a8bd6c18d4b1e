"""What a finished run leaves behind: the model in the ecosystem's format, a model card, and the upload."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData, create_repo, upload_folder

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import CONFIG_NAME, KOHYA_NAME, LORA_NAME, PIPELINE_INDEX
from persam_dreambooth.replacing import replacing
from persam_dreambooth.training import kohya
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.families import Family

LAST_WRITTEN = (PIPELINE_INDEX, LORA_NAME)
"""The files by which others recognize a model; they appear when all else is in place."""
PRIVATE = ("checkpoint-*", "segmentation/*", "manifest.jsonl", ".*", "*/.*")
"""What is never uploaded: the user's photos under their masks, and where they lie."""


def check_format(family: Family, config: TrainingConfig) -> None:
    """Refuse, before the first step, a format that the trained parts could not be saved in.

    Raises:
        UserError: `--output_kohya_format` for a part that it has no names for.
    """
    if config.output.output_kohya_format:
        kohya.check_parts(family.trained())


def save_model(family: Family, config: TrainingConfig) -> None:
    """Write the trained model into the output folder: beside, then renamed, its index last."""
    output = Path(config.output.output_dir)
    with tempfile.TemporaryDirectory(prefix=".model-", dir=output) as name:
        beside = Path(name)
        family.save(beside, config.output.skip_save_text_encoder)
        if config.output.output_kohya_format:
            kohya.convert_file(beside / LORA_NAME, beside / KOHYA_NAME, output.resolve().name, config.flat())
        for path in sorted(beside.iterdir(), key=lambda path: path.name in LAST_WRITTEN):
            target = output / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)


def save_card(config: TrainingConfig, pictures: Sequence[Path]) -> None:
    """Write `README.md`: what this model is, how to use it, what it drew last."""
    output = Path(config.output.output_dir)
    model, data = config.model, config.data
    lora = model.use_lora
    tags = ["text-to-image", "diffusers", "stable-diffusion", "dreambooth", "persam", *(["lora"] if lora else [])]
    header = ModelCardData(
        base_model=model.pretrained_model_name_or_path,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        instance_prompt=data.instance_prompt,
        tags=tags,
    )
    prior_weight = config.mask.background_prior_weight
    prior = f", background prior weight {prior_weight:g}" if prior_weight else ""
    masked = (
        f"The loss was taken over the subject only ({config.mask.mask_normalization} normalization, "
        f"background weight {config.mask.background_weight:g}{prior}); the masks are listed in `manifest.jsonl`."
        if config.mask.masked_loss
        else "The loss was taken over whole photos (no masks)."
    )
    gallery = "\n".join(f"![{path.stem}]({path.relative_to(output).as_posix()})" for path in pictures)
    prompt = config.validation.validation_prompt
    pictured = f"## Validation pictures\n\nPrompt: *{prompt}*\n\n{gallery}\n" if pictures else ""
    content = f"""---
{header.to_yaml()}
---

# {output.resolve().name}

{"LoRA adapters" if lora else "A full fine-tune"} of `{model.pretrained_model_name_or_path}` on
*{data.instance_prompt}*{", text encoder included" if model.train_text_encoder else ""}. {masked}
All settings: `{CONFIG_NAME}`.

## Use

```python
{_usage(config)}
```

{pictured}"""
    with replacing(output / "README.md") as temporary:
        ModelCard(content).save(temporary)


def _usage(config: TrainingConfig) -> str:
    """The lines that load this model with diffusers."""
    prompt = f"image = pipeline({f'{config.data.instance_prompt} in the jungle'!r}).images[0]"
    if config.model.use_lora:
        base = config.model.pretrained_model_name_or_path
        load = [f'pipeline = DiffusionPipeline.from_pretrained("{base}")', 'pipeline.load_lora_weights("this folder")']
    else:
        load = ['pipeline = DiffusionPipeline.from_pretrained("this folder")']
    return "\n".join(["from diffusers import DiffusionPipeline", "", *load, prompt])


def claim_repository(config: TrainingConfig) -> str | None:
    """Create the hub repository before training, so that a wrong token fails now and not after hours.

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
            "check the network, or leave the flag out"
        ) from None


def upload(config: TrainingConfig, repository: str) -> None:
    """Send the model, its card, its config and the validation pictures to the hub; nothing that shows the photos.

    Raises:
        UserError: the upload failed; the model stays in the output folder.
    """
    folder = config.output.output_dir
    try:
        upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="End of training",
            ignore_patterns=[*PRIVATE, f"{config.output.logging_dir}/*"],
            token=config.output.hub_token,
        )
    except Exception as error:  # as above
        raise UserError(
            f"the upload to {repository} failed ({type(error).__name__}); the model is in {folder}; send it later: "
            f"`hf upload {repository} {folder}`"
        ) from None
