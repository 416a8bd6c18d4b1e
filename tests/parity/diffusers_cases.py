"""The runs whose losses are compared with diffusers' scripts: the same folder, the same flags for both."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from random_models import random_stable_diffusion
from tests.parity.recorded_sam import DATA

PHOTOS = DATA / "synthetic" / "photos"
STEPS = 20
PRIOR = [
    "--with_prior_preservation",
    "--class_data_dir",
    "class",
    "--class_prompt",
    "a dog",
    "--num_class_images",
    "4",
]


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        script: diffusers' script.
        flags: what both scripts are given beyond `COMMON`.
        prediction_type: of the base model.
    """

    script: str
    flags: tuple[str, ...] = ()
    prediction_type: str = "epsilon"

    @property
    def all_flags(self) -> list[str]:
        """Every flag, relative to the folder that `prepare` filled."""
        return [*COMMON, *self.flags]


FULL, LORA = "train_dreambooth.py", "train_dreambooth_lora.py"
COMMON = (
    *("--pretrained_model_name_or_path", "model", "--instance_data_dir", "photos", "--output_dir", "output"),
    *("--instance_prompt", "a sks dog", "--resolution", "64", "--train_batch_size", "2", "--seed", "1"),
    *("--max_train_steps", str(STEPS), "--learning_rate", "1e-4", "--lr_warmup_steps", "4"),
    *("--lr_scheduler", "constant_with_warmup"),
)
CASES = {
    "full": Case(FULL),
    "full_prior": Case(FULL, tuple(PRIOR)),
    "full_text_encoder": Case(FULL, ("--train_text_encoder", "--center_crop")),
    "full_v_prediction": Case(FULL, ("--offset_noise", "--gradient_checkpointing"), "v_prediction"),
    "full_min_snr": Case(FULL, ("--snr_gamma", "5.0", "--pre_compute_text_embeddings")),
    "lora": Case(LORA, ("--rank", "4")),
    "lora_prior": Case(LORA, ("--rank", "8", "--lora_dropout", "0.1", *PRIOR)),
    "lora_text_encoder": Case(LORA, ("--rank", "4", "--train_text_encoder")),
}


def prepare(folder: Path, case: Case) -> None:
    """Fill a folder with the base model, photos (one of them not square), their all-white masks and class images."""
    random_stable_diffusion(seed=0, prediction_type=case.prediction_type).save_pretrained(folder / "model")
    for name in ("photos", "masks", "class"):
        (folder / name).mkdir()
    for photo in sorted(PHOTOS.glob("*.jpg")):
        shutil.copy(photo, folder / "photos")
        Image.new("L", Image.open(photo).size, 255).save(folder / "masks" / f"{photo.stem}.png")
    pixels = np.random.default_rng(0)
    for number in range(4):
        image = Image.fromarray(pixels.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        image.resize((80, 96), Image.Resampling.BICUBIC).save(folder / "class" / f"{number}.png")


def logged_losses(output: Path) -> list[float]:
    """The loss of every step, as the run's tensorboard log has it."""
    log = next(
        output / "logs" / name for name in ("dreambooth", "dreambooth-lora") if (output / "logs" / name).exists()
    )
    events = EventAccumulator(str(log), size_guidance={"scalars": 0})
    events.Reload()
    return [event.value for event in events.Scalars("loss")]
