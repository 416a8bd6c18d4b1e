"""Train tinyworld's judge of wholeness on drawn pictures and their damaged twins.

    python experiments/tinyworld/train_wholeness.py

Writes `models/wholeness`. Every fourth picture has passed through the VAE with noise on its latents, and all are
degraded as for the judge, because generated images are soft. Needs `models/stable-diffusion/vae`.
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
from damages import ONE_SIDED, SEEN, UNSEEN, Damage
from fitting import fit
from loading import load
from models import DIFFUSION, WHOLENESS
from train_judge import wear
from training_flags import TrainingFlags, read_flags
from wholeness import WholenessJudge
from world import KIND_NAMES, Recipe, draw, random_identity, random_placement, random_recipe

PAIRS = 16000
CHUNK = 500
LATENT_NOISE = 0.35
"""Highest standard deviation of the noise on latents, which have a standard deviation of 1."""
Twins = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def twins(rng: np.random.Generator, held_out: bool, damages: dict[str, Damage], kinds: tuple[str, ...]) -> Twins:
    """Draw one subject twice in the same picture, whole and damaged; (side, side, 3) uint8 each."""
    scene = random_recipe(rng, held_out, crowd=(1, 0, 0, 0))
    identity = random_identity(rng, str(rng.choice(kinds)), held_out)
    recipe = Recipe(
        scene.scene, ((identity, random_placement(rng)),), scene.light, scene.light_from, scene.occluded, scene.seed
    )
    damage = damages[str(rng.choice(list(damages)))]
    damaged = damage(identity, rng)
    return np.asarray(draw(recipe).image), np.asarray(draw(recipe, build=lambda _: damaged).image)


def _draw_chunk(job: tuple[int, int]) -> Twins:
    rng = np.random.default_rng(job)
    pairs = [twins(rng, False, SEEN, KIND_NAMES) for _ in range(CHUNK)]
    return np.stack([whole for whole, _ in pairs]), np.stack([damaged for _, damaged in pairs])


def load_twins(work: Path) -> NDArray[np.uint8]:
    """Draw the training pictures, or read them if they were drawn before: (2 N, side, side, 3), whole ones first."""
    stored = work / f"twins-{PAIRS}.npy"
    if not stored.exists():
        jobs = [(12, start) for start in range(0, PAIRS, CHUNK)]
        with get_context("spawn").Pool() as pool:
            drawn = list(tqdm(pool.imap(_draw_chunk, jobs), "drawing twins", len(jobs)))
        np.save(stored, np.concatenate([pictures for side in (0, 1) for pictures in [pair[side] for pair in drawn]]))
    return np.load(stored)


@torch.no_grad()
def soften(pixels: Tensor, vae: AutoencoderKL, draw: torch.Generator) -> Tensor:
    """Encode and decode (B, 3, h, w) pictures in [-1, 1], with noise on the latents."""
    latents = vae.encode(pixels).latent_dist.mean
    level = LATENT_NOISE * torch.rand(len(pixels), 1, 1, 1, generator=draw) / vae.config.scaling_factor
    noisy = latents + level * torch.randn(latents.shape, generator=draw)
    softened: Tensor = vae.decode(noisy).sample.clamp(-1, 1)
    return softened


def train(flags: TrainingFlags) -> None:
    """Train the model, save it and its training record."""
    torch.manual_seed(flags.seed)
    model = WholenessJudge().to(flags.device, memory_format=torch.channels_last)
    vae = load(AutoencoderKL, DIFFUSION / "vae").float().eval()
    pictures = load_twins(flags.work)
    order = batches(PAIRS, flags.batch_size // 2, flags.seed, flags.first_step("wholeness"))
    truth = (torch.arange(flags.batch_size) < flags.batch_size // 2).float().to(flags.device)

    def loss_of(step: int) -> Tensor:
        index, draw = next(order), torch.Generator().manual_seed(step)
        pixels = to_pixels(pictures[torch.cat([index, index + PAIRS]).numpy()])
        pixels[::4] = soften(pixels[::4], vae, draw).float()
        pixels = wear(pixels, draw).to(flags.device, memory_format=torch.channels_last)
        return F.binary_cross_entropy_with_logits(model(pixels).float(), truth)

    fitted = fit(model, loss_of, flags.steps, flags.batch_size, flags.learning_rate, flags.state("wholeness"))
    model.half().save_pretrained(WHOLENESS)
    save_card(WHOLENESS, fitted)


def held_out_twins(count: int, seen: bool) -> tuple[Tensor, Tensor]:
    """Draw pairs of held-out individuals, with damages of training or with others; (N, 3, side, side) in [-1, 1]."""
    rng = np.random.default_rng([13, seen])
    damages, kinds = (SEEN, KIND_NAMES) if seen else (UNSEEN, ONE_SIDED)
    pairs = [twins(rng, True, damages, kinds) for _ in range(count)]
    return to_pixels(np.stack([whole for whole, _ in pairs])), to_pixels(np.stack([broken for _, broken in pairs]))


if __name__ == "__main__":
    train(read_flags(__doc__, steps=1400, batch_size=64, learning_rate=1.5e-3))
