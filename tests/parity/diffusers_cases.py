"""Runs whose losses are compared with diffusers' scripts, with the same folder and flags for both."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from diffusers import DDPMScheduler, DiffusionPipeline, EDMEulerScheduler
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from random_llm_pipelines import (
    random_flux2,
    random_flux2_klein,
    random_krea2,
    random_lumina2,
    random_qwen_image,
    random_z_image,
)
from random_models import random_flux, random_sd3, random_sdxl, random_stable_diffusion
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
        flags: flags of both scripts besides `COMMON`.
        model: builds the base model.
        theirs: flags of diffusers' script only.
        ours: flags of our script only.
        same_sizes: give class images the photos' sizes, which diffusers' SDXL script passes to the UNet.
    """

    script: str
    flags: tuple[str, ...] = ()
    model: Callable[[], DiffusionPipeline] = random_stable_diffusion
    theirs: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    same_sizes: bool = False

    @property
    def all_flags(self) -> list[str]:
        """Every flag of both scripts, relative to the folder that `prepare` filled."""
        return [*COMMON, *self.flags]

    @property
    def our_flags(self) -> list[str]:
        """Every flag of our script: white masks over whole photos."""
        lora = ["--use_lora"] if "lora" in self.script else []
        return [*self.all_flags, "--instance_mask_dir", "masks", *self.ours, *lora]


def random_sdxl_of(noise: str) -> DiffusionPipeline:
    """Return an SDXL that predicts velocities, or one with EDM's noise as Playground 2.5 has it."""
    pipeline = random_sdxl()
    velocity = DDPMScheduler.from_config(pipeline.scheduler.config, prediction_type="v_prediction")
    pipeline.register_modules(scheduler=EDMEulerScheduler() if noise == "edm" else velocity)
    return pipeline


def random_flux_without_dropout() -> DiffusionPipeline:
    """Return a Flux.1 whose T5 drops nothing out: the script encodes and draws noise in another order than ours."""
    pipeline = random_flux()
    pipeline.text_encoder_2.config.dropout_rate = 0.0
    return pipeline


FULL, LORA = "train_dreambooth.py", "train_dreambooth_lora.py"
SDXL, SD3, SD3_FULL = "train_dreambooth_lora_sdxl.py", "train_dreambooth_lora_sd3.py", "train_dreambooth_sd3.py"
FLUX, FLUX_FULL = "train_dreambooth_lora_flux.py", "train_dreambooth_flux.py"
LUMINA2 = "train_dreambooth_lora_lumina2.py"
QWEN_IMAGE = "train_dreambooth_lora_qwen_image.py"
KLEIN, FLUX2 = "train_dreambooth_lora_flux2_klein.py", "train_dreambooth_lora_flux2.py"
Z_IMAGE, KREA2 = "train_dreambooth_lora_z_image.py", "train_dreambooth_lora_krea2.py"
ADVANCED = "../advanced_diffusion_training/train_dreambooth_lora_"
SD15_ADVANCED, SDXL_ADVANCED = f"{ADVANCED}sd15_advanced.py", f"{ADVANCED}sdxl_advanced.py"
FLUX_ADVANCED = f"{ADVANCED}flux_advanced.py"
COMMON = (
    *("--pretrained_model_name_or_path", "model", "--instance_data_dir", "photos", "--output_dir", "output"),
    *("--instance_prompt", "a sks dog", "--resolution", "64", "--train_batch_size", "2", "--seed", "1"),
    *("--max_train_steps", str(STEPS), "--learning_rate", "1e-4", "--lr_warmup_steps", "4"),
    *("--lr_scheduler", "constant_with_warmup"),
)
# The scripts of the newer families draw all crops in advance, and have a different default decay.
NEWER = ("--center_crop", "--resolution", "32", "--learning_rate", "1e-3", "--adam_weight_decay", "1e-4")
# With larger batches, SDXL's script pairs prompts and class images wrongly, and Flux's fails with text encoders.
SINGLE = (*NEWER, "--train_batch_size", "1")
# The scripts train text encoders at a separate rate and decay; here both equal the denoiser's.
SAME = ("--adam_weight_decay_text_encoder", "1e-4", "--text_encoder_lr", "1e-3")
BILINEAR = ("--image_interpolation_mode", "bilinear")
# The gradient norm is not clipped, since the scripts include all rows of the embeddings in it.
TOKENS = (
    *("--rank", "4", "--train_text_encoder_ti", "--instance_prompt", "a TOK dog", "--max_grad_norm", "1e6"),
    *("--text_encoder_lr", "1e-2", "--adam_weight_decay_text_encoder", "1e-3"),
)
CASES = {
    "full": Case(FULL),
    "full_prior": Case(FULL, tuple(PRIOR)),
    "full_text_encoder": Case(FULL, ("--train_text_encoder", "--center_crop")),
    "full_v_prediction": Case(
        FULL,
        ("--offset_noise", "--gradient_checkpointing"),
        partial(random_stable_diffusion, prediction_type="v_prediction"),
    ),
    "full_min_snr": Case(FULL, ("--snr_gamma", "5.0", "--pre_compute_text_embeddings")),
    "lora": Case(LORA, ("--rank", "4")),
    "lora_prior": Case(LORA, ("--rank", "8", "--lora_dropout", "0.1", *PRIOR)),
    "lora_text_encoder": Case(LORA, ("--rank", "4", "--train_text_encoder")),
    "sdxl_lora": Case(SDXL, (*NEWER, "--rank", "4"), random_sdxl),
    "sdxl_lora_prior": Case(SDXL, (*SINGLE, "--rank", "4", *PRIOR), random_sdxl, same_sizes=True),
    "sdxl_lora_text_encoders": Case(
        SDXL, (*NEWER, "--rank", "4", "--train_text_encoder", "--snr_gamma", "5.0"), random_sdxl, SAME
    ),
    "sdxl_lora_text_encoder_rate": Case(
        SDXL,
        (
            *(*NEWER, "--rank", "4", "--train_text_encoder", "--text_encoder_lr", "1e-2"),
            *("--adam_weight_decay_text_encoder", "0.5", "--repeats", "2"),
        ),
        random_sdxl,
    ),
    "sdxl_lora_edm": Case(
        SDXL,
        (*NEWER, "--rank", "4", "--do_edm_style_training"),
        partial(random_sdxl_of, "velocity"),
    ),
    "sdxl_lora_edm_base": Case(
        SDXL, (*SINGLE, "--rank", "4", *PRIOR), partial(random_sdxl_of, "edm"), same_sizes=True
    ),
    # SD 1.5's script stops the embeddings for a single step only, so here it never does.
    "sd_lora_tokens": Case(SD15_ADVANCED, (*NEWER, *TOKENS, "--train_text_encoder_ti_frac", "1")),
    "sdxl_lora_tokens": Case(SDXL_ADVANCED, (*NEWER, *TOKENS), random_sdxl),
    "sd3_lora": Case(SD3, (*SINGLE, "--rank", "4"), random_sd3, ours=BILINEAR),
    "sd3_lora_prior": Case(
        SD3, (*SINGLE, "--rank", "4", "--weighting_scheme", "cosmap", *PRIOR), random_sd3, ours=BILINEAR
    ),
    "sd3_lora_text_encoders": Case(
        SD3,
        (*SINGLE, "--rank", "4", "--train_text_encoder", "--weighting_scheme", "sigma_sqrt"),
        random_sd3,
        SAME,
        BILINEAR,
    ),
    "sd3_full": Case(SD3_FULL, (*SINGLE, "--weighting_scheme", "mode", "--precondition_outputs", "0"), random_sd3),
    "flux_lora": Case(FLUX, (*NEWER, "--rank", "4"), random_flux, ours=BILINEAR),
    "flux_lora_prior": Case(
        FLUX,
        (*NEWER, "--rank", "4", "--weighting_scheme", "cosmap", *PRIOR),
        partial(random_flux, guidance=False),
        ours=BILINEAR,
    ),
    # The gradient norm is not clipped, since Flux's script includes the frozen embeddings in it.
    "flux_lora_text_encoder": Case(
        FLUX, (*SINGLE, "--rank", "4", "--train_text_encoder", "--max_grad_norm", "1e6"), random_flux, SAME, BILINEAR
    ),
    "flux_full": Case(
        FLUX_FULL,
        (*SINGLE, "--max_sequence_length", "77", "--weighting_scheme", "logit_normal"),
        random_flux,
        ours=("--image_interpolation_mode", "lanczos"),
    ),
    # Without --enable_t5_ti the script's prompts for T5 lack the end token, which its pipeline and we give it.
    "flux_lora_tokens_t5": Case(
        FLUX_ADVANCED,
        (*NEWER, *TOKENS, "--enable_t5_ti", "--initializer_concept", "dogs"),
        random_flux_without_dropout,
    ),
    "lumina2_lora": Case(LUMINA2, (*NEWER, "--rank", "4", "--weighting_scheme", "cosmap"), random_lumina2),
    "qwen_image_lora": Case(QWEN_IMAGE, (*NEWER, "--rank", "4"), random_qwen_image, ours=BILINEAR),
    "qwen_image_lora_prior": Case(
        QWEN_IMAGE,
        (*NEWER, "--rank", "4", "--weighting_scheme", "logit_normal", *PRIOR),
        random_qwen_image,
        ours=BILINEAR,
    ),
    # Klein's script takes Flux.2's layers of the text encoder; its pipeline, and we, take these.
    "flux2_klein_lora": Case(
        KLEIN,
        (*NEWER, "--rank", "4"),
        random_flux2_klein,
        ("--text_encoder_out_layers", "9", "18", "27"),
        BILINEAR,
    ),
    "flux2_lora_prior": Case(
        FLUX2, (*NEWER, "--rank", "4", "--weighting_scheme", "cosmap", *PRIOR), random_flux2, ours=BILINEAR
    ),
    # Z-Image's script repeats its list of prompts in every step: larger batches and class images get wrong prompts.
    "z_image_lora": Case(
        Z_IMAGE, (*SINGLE, "--rank", "4", "--weighting_scheme", "logit_normal"), random_z_image, ours=BILINEAR
    ),
    # Krea 2's script has a fixed default for alpha, ours is the rank.
    "krea2_lora": Case(KREA2, (*NEWER, "--rank", "4"), random_krea2, ours=(*BILINEAR, "--lora_alpha", "32")),
    "krea2_lora_prior": Case(
        KREA2,
        (*NEWER, "--rank", "4", "--weighting_scheme", "cosmap", *PRIOR),
        random_krea2,
        ours=(*BILINEAR, "--lora_alpha", "32"),
    ),
}


def prepare(folder: Path, case: Case) -> None:
    """Fill a folder with the base model, photos (one not square), their all-white masks, and class images."""
    case.model().save_pretrained(folder / "model")
    for name in ("photos", "masks", "class"):
        (folder / name).mkdir()
    for photo in sorted(PHOTOS.glob("*.jpg")):
        shutil.copy(photo, folder / "photos")
        Image.new("L", Image.open(photo).size, 255).save(folder / "masks" / f"{photo.stem}.png")
    pixels = np.random.default_rng(0)
    sizes = [Image.open(photo).size for photo in sorted(PHOTOS.glob("*.jpg"))]
    for number in range(4):
        image = Image.fromarray(pixels.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        size = sizes[number % len(sizes)] if case.same_sizes else (80, 96)
        image.resize(size, Image.Resampling.BICUBIC).save(folder / "class" / f"{number}.png")


def logged_losses(output: Path) -> list[float]:
    """Read the loss of every step from the run's tensorboard log."""
    log = next(path for path in (output / "logs").iterdir() if path.is_dir())
    events = EventAccumulator(str(log), size_guidance={"scalars": 0})
    events.Reload()
    return [event.value for event in events.Scalars("loss")]
