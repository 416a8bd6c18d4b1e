"""Model cards: a model's description, training and scores."""

import json
from dataclasses import asdict
from pathlib import Path

from fitting import Fitted
from models import CLIP, DETECTOR, DIFFUSION, DINO, FOLDER, JUDGE, SAM

FITTED = "training.json"
SCORES = "scores.json"


def save_card(folder: Path, fitted: Fitted) -> None:
    """Save the training's steps and time beside a model's weights; `score.py` adds the scores and the text."""
    (folder / FITTED).write_text(json.dumps(asdict(fitted), indent=2) + "\n")


def load_fitted(folder: Path) -> Fitted:
    """Read what `save_card` wrote."""
    return Fitted(**json.loads((folder / FITTED).read_text()))


def write_cards() -> None:
    """Write each model's `README.md` from its training's steps and time and its scores."""
    scores = json.loads((FOLDER / SCORES).read_text())
    for folder, (title, text, begins) in _TEXTS.items():
        trained = [json.loads(path.read_text()) | {"model": path.parent.name} for path in sorted(folder.rglob(FITTED))]
        rows = [
            f"| {run['model']} | {run['steps']} x {run['batch_size']} | {run['seconds'] / 60:.0f} min | "
            f"{run['threads']} thread(s), {run['machine']}, torch {run['torch']} |"
            for run in trained
        ]
        scored = [f"| {name} | {value} |" for name, value in scores.items() if name.startswith(begins)]
        lines = [
            *("---", "license: apache-2.0", "---", f"# {title}", "", text, ""),
            *("| training | steps x batch | time | machine |", "| --- | --- | --- | --- |", *rows, ""),
            *("| on held-out pictures (`python experiments/tinyworld/score.py`) | mean and 95 % interval |",),
            *("| --- | --- |", *scored, ""),
        ]
        (folder / "README.md").write_text("\n".join(lines))


_TEXTS = {
    SAM: (
        "tinyworld SAM",
        "A `transformers.SamModel` for 64 x 64 pixels, trained from scratch on drawn pictures with points, boxes and "
        "masks (`train_sam.py`). For a point, its three masks are sub-part, part and whole. It knows tinyworld only.",
        "SAM",
    ),
    CLIP: (
        "tinyworld CLIP",
        "A `transformers.CLIPModel` trained contrastively on drawn pictures and their captions (`train_clip.py`). Its "
        "text tower is the text encoder of tinyworld's Stable Diffusion. It knows only words of tinyworld's captions.",
        "CLIP",
    ),
    DIFFUSION: (
        "tinyworld Stable Diffusion",
        "A `diffusers.StableDiffusionPipeline` for 64 x 64 pixels, epsilon prediction, trained from scratch on drawn "
        "pictures (`train_vae.py`, `train_unet.py`). Held-out identities and held-out pairs of kind and scene are "
        "not in its training data. It generates tinyworld's pictures only.",
        ("VAE", "generated"),
    ),
    JUDGE: (
        "tinyworld judge",
        "A classifier of scene, kind and pattern that also segments the subject (`train_judge.py`). It scores "
        "generated pictures and shares no weights with the other models.",
        ("judge", "wholeness"),
    ),
    DINO: (
        "tinyworld DINOv3",
        "A `transformers.DINOv3ViTModel` of 4 x 4 pixel patches (`train_dino.py`). Unlike DINOv3 it was "
        "trained with labels: a contrastive loss pulls patches of the same individual together and pushes all others "
        "apart. It therefore shows how well a method uses features that distinguish individuals, not how well "
        "DINOv3's features do. It knows tinyworld only.",
        "DINO",
    ),
    DETECTOR: (
        "tinyworld detector",
        "A multi-label classifier: for each kind, whether a picture shows it (`train_detector.py`). It counts "
        "companions that the prompt did not ask for.",
        "detector",
    ),
}
"""Each model's card: title, text, and the prefixes of its scores' names."""
