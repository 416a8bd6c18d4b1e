"""Load tinyworld's committed models, or name the command that makes a missing one."""

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from models import CLIP, DETECTOR, DIFFUSION, DINO, JUDGE, SAM
from persam_dreambooth.errors import UserError

MAKERS = {
    SAM: "train_sam",
    CLIP: "train_clip",
    DIFFUSION: "train_vae.py and train_unet",
    JUDGE: "train_judge",
    DETECTOR: "train_detector",
    DINO: "train_dino",
}


def check(folder: Path) -> Path:
    """Return the folder if it holds a model's config.

    Raises:
        UserError: there is none; the message names the command that makes the model.
    """
    if not any((folder / name).is_file() for name in ("config.json", "model_index.json")):
        raise UserError(f"{folder} holds no model; {_remedy(folder)}")
    return folder


def load(kind: Any, folder: Path, **settings: Any) -> Any:
    """Call `kind.from_pretrained(folder)`; an error becomes one line with the command that rebuilds the model.

    Raises:
        UserError: the folder is missing, damaged or holds another model.
    """
    check(folder)
    try:
        with redirect_stdout(StringIO()):  # huggingface_hub prints "Loading weights from local directory"
            return kind.from_pretrained(folder, **settings)
    except Exception as error:  # each library raises its own exceptions for damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder} cannot be loaded ({reason}); {_remedy(folder)}") from error


def _remedy(folder: Path) -> str:
    maker = next((script for model, script in MAKERS.items() if folder == model or model in folder.parents), None)
    return f"rebuild it: python experiments/tinyworld/{maker}.py" if maker else "check the path"
