"""Train tinyworld's judge of whole and damaged subjects.

    python experiments/tinyworld/train_wholeness.py

writes `models/wholeness`. Needs `models/stable-diffusion/vae`, through which half of the pictures go.
"""

from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cards import save_card
from corpus import batches, to_pixels
from corruptions import HELD_OUT, TRAINED, Corruption
from fitting import fit
from loading import load
from models import DIFFUSION, WHOLENESS
from subjects import parts_of
from train_judge import wear
from training_flags import TrainingFlags, read_flags
from wholeness import WholenessJudge
from world import draw, random_recipe

PICTURES = 20000
CHUNK = 250
CORRUPTIONS: dict[str, Corruption] = TRAINED | HELD_OUT


def draw_chunk(job: tuple[int, int, bool, tuple[str, ...]]) -> tuple[NDArray[np.uint8], list[str]]:
    """Draw single subjects of which every other one is damaged, each by a kind of damage drawn by lot.

    Args:
        job: seed, number of pictures, whether of held-out individuals, and the kinds of damage.

    Returns:
        (N, 64, 64, 3) uint8 pictures, and of each the kind of damage, "" for a whole subject.
    """
    seed, count, held_out, kinds = job
    rng = np.random.default_rng([31, seed])
    images, damages = [], []
    for number in range(count):
        recipe = random_recipe(rng, held_out, crowd=(0, 1, 0, 0))
        damage = str(rng.choice(kinds)) if number % 2 else ""
        parts = parts_of(recipe.subjects[0][0])
        drawn = CORRUPTIONS[damage](parts, rng) if damage else parts
        images.append(np.asarray(draw(recipe, parts=lambda _, drawn=drawn: drawn).image))
        damages.append(damage)
    return np.stack(images), damages


def load_pictures(
    count: int, seed: int, held_out: bool, kinds: tuple[str, ...], work: Path
) -> tuple[NDArray[np.uint8], Tensor, list[str]]:
    """Draw pictures, or read them where they were drawn before.

    Returns:
        Pictures, (N,) float32 that is 1 for whole subjects, and each one's damage.
    """
    stored = work / f"wholeness-{count}-{seed}-{'-'.join(kinds)}.npz"
    if not stored.exists():
        jobs = [(seed * 100_003 + start, CHUNK, held_out, kinds) for start in range(0, count, CHUNK)]
        with get_context("spawn").Pool() as pool:
            chunks = list(tqdm(pool.imap(draw_chunk, jobs), "drawing subjects", len(jobs)))
        damages = [damage for _, some in chunks for damage in some]
        np.savez(stored, images=np.concatenate([images for images, _ in chunks]), damages=np.array(damages))
    found = np.load(stored)
    return found["images"], torch.tensor(found["damages"] == "").float(), found["damages"].tolist()


@torch.no_grad()
def through_autoencoder(images: NDArray[np.uint8]) -> Tensor:
    """(N, 64, 64, 3) uint8 to (N, 3, 64, 64) float16 in [-1, 1], encoded and decoded."""
    vae = load(AutoencoderKL, DIFFUSION / "vae").float()
    parts = to_pixels(images).split(50)
    return torch.cat(
        [vae.decode(vae.encode(some).latent_dist.mean).sample.clamp(-1, 1).half() for some in tqdm(parts, "softening")]
    )


def train(flags: TrainingFlags) -> None:
    """Train, save, describe."""
    torch.manual_seed(flags.seed)
    model = WholenessJudge().to(flags.device, memory_format=torch.channels_last)
    images, truth, _ = load_pictures(PICTURES, 1, False, tuple(TRAINED), flags.work)
    soft = through_autoencoder(images[: PICTURES // 2])
    order = batches(len(images), flags.batch_size, flags.seed, flags.first_step("wholeness"))

    def loss_of(step: int) -> Tensor:
        index = next(order)
        draw = torch.Generator().manual_seed(step)
        pixels = to_pixels(images[index.numpy()])
        softened = index < len(soft)
        pixels[softened] = soft[index[softened]].float()
        pixels = wear(pixels, draw)
        pixels = pixels.flip(-1) if torch.rand((), generator=draw) < 0.5 else pixels
        logits = model(pixels.to(flags.device, memory_format=torch.channels_last))
        return F.binary_cross_entropy_with_logits(logits.float(), truth[index].to(flags.device))

    fitted = fit(model, loss_of, flags.steps, flags.batch_size, flags.learning_rate, flags.state("wholeness"))
    model.half().save_pretrained(WHOLENESS)
    save_card(WHOLENESS, fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=2500, batch_size=32, learning_rate=1.5e-3))
