"""Model cards: what a model is, how it was trained, and its scores."""

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
        trained = [json.loads(path.read_text()) | {"of": path.parent.name} for path in sorted(folder.rglob(FITTED))]
        rows = [
            f"| {one['of']} | {one['steps']} x {one['batch_size']} | {one['seconds'] / 60:.0f} min | {one['threads']} "
            f"thread(s), {one['machine']}, torch {one['torch']} |"
            for one in trained
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
        "A `transformers.SamModel` for 64 x 64 pixels, trained from nothing on drawn pictures with points, boxes and "
        "masks (`train_sam.py`). Under a point its three masks are sub-part, part and whole. It knows tinyworld only.",
        "SAM",
    ),
    CLIP: (
        "tinyworld CLIP",
        "A `transformers.CLIPModel` trained contrastively on drawn pictures and their captions (`train_clip.py`). Its "
        "text tower is the text encoder of tinyworld's Stable Diffusion. It reads tinyworld's words only.",
        "CLIP",
    ),
    DIFFUSION: (
        "tinyworld Stable Diffusion",
        "A `diffusers.StableDiffusionPipeline` for 64 x 64 pixels, epsilon prediction, trained from nothing on drawn "
        "pictures (`train_vae.py`, `train_unet.py`). Held-out identities and held-out pairs of kind and scene were "
        "never trained on. It draws tinyworld only.",
        ("VAE", "generated"),
    ),
    JUDGE: (
        "tinyworld judge",
        "An independent classifier of scene, kind and pattern that also marks the subject (`train_judge.py`); "
        "generated pictures are scored by it. It shares no weights with the other models.",
        "judge",
    ),
    DINO: (
        "tinyworld DINOv3",
        "A `transformers.DINOv3ViTModel` of 4 x 4 pixel patches (`train_dino.py`). Unlike the real DINOv3 it was "
        "trained with labels: patches of the same individual attract each other, all others repel each other. So it "
        "shows what a method makes of features that tell individuals apart, not how well DINOv3's do. It knows "
        "tinyworld only.",
        "DINO",
    ),
    DETECTOR: (
        "tinyworld detector",
        "Says of each kind whether a picture shows it, whatever else it shows (`train_detector.py`); uninvited "
        "companions are counted by it.",
        "detector",
    ),
}
"""Each model's card: title, text, and the prefixes of its scores' names."""
