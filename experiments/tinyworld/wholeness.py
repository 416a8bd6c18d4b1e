"""Wholeness: does an image's subject have the outline of a whole subject of its kind?

Two heads, a missing leg or a melted body give an outline that no whole subject has. So the outline that the judge
marks is compared with those of many drawn whole subjects. Damages inside the outline are not seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import affine_transform, center_of_mass

from corpus import image_pixels
from damages import Damage
from identity import portrait
from loading import load
from measures import the_judge
from models import DIFFUSION
from recipes import KIND_NAMES, random_identity
from subjects import parts_of
from world import Picture

OUTLINES, CALIBRATION = 400, 100
"""Drawn subjects of each kind: whose outlines are known, and on which the bar is set."""
GRID, FILLED = 32, 0.3
"""Side of a normalized outline in cells, and the share of the cells that it fills."""
WHOLE = 0.95
"""Share of the drawn whole subjects that count as whole."""


@dataclass(frozen=True)
class Outlines:
    """The outlines of one kind's whole subjects.

    Attributes:
        known: (OUTLINES, GRID * GRID) float32, 1 inside.
        bar: the IoU with the nearest of them from which an outline is a whole subject's.
    """

    known: NDArray[np.float32]
    bar: float


def normalized(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Move and scale a mask so that centre of mass and area are the same for all; (GRID * GRID,) float32."""
    if not mask.any():
        return np.zeros(GRID * GRID, dtype=np.float32)
    scale = np.sqrt(mask.sum() / (FILLED * GRID * GRID))
    corner = np.array(center_of_mass(mask)) - scale * (GRID - 1) / 2
    moved = affine_transform(mask.astype(np.float32), [scale, scale], corner, (GRID, GRID), order=1)
    return (moved > 0.5).astype(np.float32).ravel()


def nearest(masks: Sequence[NDArray[np.bool_]], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each mask's IoU with the nearest known outline, (N,) in [0, 1]."""
    outlines = np.stack([normalized(mask) for mask in masks])
    shared = outlines @ known.T
    union = outlines.sum(1)[:, None] + known.sum(1)[None] - shared
    return (shared / np.maximum(union, 1)).max(1)


@torch.no_grad()
def marked(images: Sequence[Image.Image]) -> list[NDArray[np.bool_]]:
    """Return the subject's mask in each image as the judge marks it, (64, 64)."""
    return list((the_judge()(image_pixels(images)).mask[:, 0] > 0).numpy())


@torch.no_grad()
def softened(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Encode and decode images with tinyworld's VAE, because generated images have its blur too."""
    vae = _the_vae()
    decoded = vae.decode(vae.encode(image_pixels(images)).latent_dist.mean).sample.clamp(-1, 1)
    return [Image.fromarray(levels) for levels in ((decoded + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()]


@cache
def _the_vae() -> AutoencoderKL:
    return load(AutoencoderKL, DIFFUSION / "vae").float().eval()


@cache
def outlines_of(kind: str) -> Outlines:
    """Draw the known outlines of a kind, and set the bar on other pictures."""
    rng = np.random.default_rng([14, KIND_NAMES.index(kind)])
    known = np.stack([normalized(_drawn(kind, rng).mask()) for _ in range(OUTLINES)])
    others = softened([_drawn(kind, rng).image for _ in range(CALIBRATION)])
    return Outlines(known, float(np.quantile(nearest(marked(others), known), 1 - WHOLE)))


def whole(images: Sequence[Image.Image], kind: str) -> list[bool]:
    """Return for each image whether its subject has the outline of a whole subject of the kind, facing right."""
    outlines = outlines_of(kind)
    return (nearest(marked(images), outlines.known) >= outlines.bar).tolist()


def are_whole(kinds: Sequence[str], count: int, rng: Generator, damage: Damage | None = None) -> list[bool]:
    """Judge `count` pictures of held-out individuals of each kind, after the VAE; with `damage`, of damaged ones."""
    return [
        said
        for kind in kinds
        for said in whole(softened([_drawn(kind, rng, True, damage).image for _ in range(count)]), kind)
    ]


def _drawn(kind: str, rng: Generator, held_out: bool = False, damage: Damage | None = None) -> Picture:
    identity = random_identity(rng, kind, held_out)
    return portrait(identity, rng, (lambda whole: damage(whole, rng)) if damage else parts_of)
