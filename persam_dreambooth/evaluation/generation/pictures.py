"""Every picture of every model, drawn once, from the same noise for each model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from persam_dreambooth import generation
from persam_dreambooth.evaluation.generation.models import Model
from persam_dreambooth.evaluation.generation.prompts import Prompt
from persam_dreambooth.photos import files

SETTINGS_NAME = "drawing.json"


@dataclass(frozen=True)
class Drawing:
    """How the pictures are drawn; the same for all models, so that they can be compared.

    Attributes:
        prompts: what.
        num_images: a prompt.
        seed: of each prompt's first picture; the next ones count up.
        settings: the pipeline's (num_inference_steps, guidance_scale, ...).
        base_model: of LoRA weights that do not name theirs.
        device: None takes an accelerator where there is one.
        dtype: of the models' weights.
    """

    prompts: Sequence[Prompt]
    num_images: int
    seed: int
    settings: Mapping[str, Any]
    base_model: str | None = None
    device: str | None = None
    dtype: torch.dtype = torch.float32

    def identity(self) -> dict[str, Any]:
        """What makes a picture this picture, beside model, prompt and seed."""
        return {"dtype": str(self.dtype).removeprefix("torch."), "base_model": self.base_model, **self.settings}


def draw_pictures(model: Model, drawing: Drawing, folder: Path) -> dict[tuple[str, int], Path]:
    """Draw what is not there yet; the model is loaded only if something is missing.

    A file of the right name that was drawn for another prompt is drawn anew: prompts that look alike in a file name
    are numbered by their order, which a changed list changes.

    Picture i of a prompt begins with the noise of seed + i, whatever the model and whatever was drawn before.

    Args:
        model: whose pictures.
        drawing: what and how.
        folder: for the pictures; another model's or other settings' is refused.

    Returns:
        The file of each (prompt's text, seed).

    Raises:
        UserError: another run's folder, or a model that cannot be loaded or refuses the settings.
    """
    weights = {"weights": model.weights(), "base_weights": model.base_weights(drawing.base_model)}
    identity = {"model": model.source, **weights, **drawing.identity()}
    known = files.refuse_other_runs(folder.parent, SETTINGS_NAME, identity, "drawing run", (folder.name,))
    texts = [prompt.text for prompt in drawing.prompts]
    paths = generation.named_pictures(folder, texts, drawing.num_images, drawing.seed)
    missing = [(key, path) for key, path in paths.items() if not _shows(path, *key)]
    if not missing:
        return paths
    pipeline = generation.load_pipeline(model.source, drawing.base_model, drawing.device, drawing.dtype)
    if not known:
        files.write_json(identity, folder.parent / SETTINGS_NAME)
    for (text, seed), path in tqdm(missing, f"Drawing, {model.title}", unit="picture"):
        picture = generation.draw(pipeline, text, seed, **drawing.settings)
        generation.save_picture(picture, path, model.source, dict(drawing.settings))
    return paths


def _shows(path: Path, prompt: str, seed: int) -> bool:
    """Whether a file is there and says that it was drawn for this prompt and seed."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return (picture.info.get("prompt"), picture.info.get("seed")) == (prompt, str(seed))
    except OSError:  # absent or damaged
        return False
