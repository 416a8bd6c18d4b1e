"""Generate every model's pictures once, from the same noise for each model, and find the subject in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from persam_dreambooth import generation
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.features import Masked
from persam_dreambooth.evaluation.generation.models import Model, base_digest_of, digest_of
from persam_dreambooth.evaluation.generation.prompts import Prompt
from persam_dreambooth.generated_folder import named_pictures, save_picture
from persam_dreambooth.model_source import ModelSource
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing import SegmentationJob, segment_folder

SETTINGS_NAME = "drawing.json"


@dataclass(frozen=True)
class Drawing:
    """Generation settings, the same for all models so that they are comparable.

    Attributes:
        prompts: the prompts.
        num_images: number of pictures per prompt.
        seed: seed of each prompt's first picture; it is incremented for the next ones.
        settings: keyword arguments of the pipeline (num_inference_steps, guidance_scale, ...).
        device: None uses an accelerator if there is one.
        dtype: of the models' weights.
    """

    prompts: Sequence[Prompt]
    num_images: int
    seed: int
    settings: Mapping[str, Any]
    device: str | None = None
    dtype: torch.dtype = torch.float32

    def identity(self, model: ModelSource) -> dict[str, Any]:
        """Return what determines a picture besides the model's name, prompt and seed."""
        own = {"base_model": model.base_model, "single_file_config": model.single_file_config}
        return {"dtype": str(self.dtype).removeprefix("torch."), **own, **self.settings}


def draw_pictures(model: Model, drawing: Drawing, folder: Path) -> dict[tuple[str, int], Path]:
    """Generate the missing pictures; the model is loaded only if there are any.

    A file of the right name that was generated for another prompt is replaced: prompts with the same file name are
    numbered by their order, which changes with the list of prompts.

    Picture i of a prompt starts from the noise of seed + i, independent of the model and of other pictures.

    Args:
        model: the model.
        drawing: prompts and settings.
        folder: output folder; one of another model or with other settings is refused.

    Returns:
        The file of each (prompt text, seed).

    Raises:
        UserError: another run's folder, or a model that cannot be loaded or rejects the settings.
    """
    source = model.source
    digests = {"weights": digest_of(source), "base_weights": base_digest_of(source)}
    identity = {"model": str(source), **digests, **drawing.identity(source)}
    known = files.refuse_other_runs(folder.parent, SETTINGS_NAME, identity, "drawing run", (folder.name,))
    texts = [prompt.text for prompt in drawing.prompts]
    paths = named_pictures(folder, texts, drawing.num_images, drawing.seed)
    missing = [(key, path) for key, path in paths.items() if not _shows(path, *key)]
    if not missing:
        return paths
    pipeline = generation.load(source, drawing.device, drawing.dtype)
    if not known:
        files.write_json(identity, folder.parent / SETTINGS_NAME)
    for (text, seed), path in tqdm(missing, f"Drawing, {model.title}", unit="image"):
        picture = generation.draw(pipeline, text, seed, **drawing.settings)
        save_picture(picture, path, str(source), dict(drawing.settings))
    return paths


def _shows(path: Path, prompt: str, seed: int) -> bool:
    """Check that a file exists and that its metadata names this prompt and seed."""
    texts = files.picture_texts(path, whole=True)
    return (texts.get("prompt"), texts.get("seed")) == (prompt, str(seed))


@dataclass(frozen=True)
class Drawn:
    """A generated picture and its segmentation.

    Attributes:
        prompt: the prompt it was generated for.
        seed: seed of its noise.
        files: the picture and the subject's mask; the mask is measured whatever the verdict, because leaving out
            pictures unlike the subject would flatter a model that draws it badly.
        presence: "found", "unsure" or "not found"; None without a presence rule.
    """

    prompt: Prompt
    seed: int
    files: Masked
    presence: str | None


def find_subject(
    job: SegmentationJob, prompts: Sequence[Prompt], paths: Mapping[tuple[str, int], Path]
) -> list[Drawn]:
    """Segment a model's pictures, each once.

    Args:
        job: segmentation of the folder of the pictures.
        prompts: the prompts.
        paths: the file of each (prompt text, seed).

    Returns:
        One entry per picture, by prompt, then by seed.

    Raises:
        UserError: as in `segment_folder`, or a picture cannot be decoded.
    """
    entries = {Path(entry.photo).name: entry for entry in segment_folder(job)}
    by_text = {prompt.text: prompt for prompt in prompts}
    drawn = []
    for (text, seed), path in paths.items():
        entry = entries[path.name]
        if entry.mask is None:
            raise UserError(f"{entry.error}; delete it and run again")
        drawn.append(Drawn(by_text[text], seed, Masked(path, job.output / entry.mask), entry.presence))
    return drawn
