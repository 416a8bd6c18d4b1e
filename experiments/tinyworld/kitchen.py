"""Whether an image shows the kitchen, the scene that no caption, prompt or model of tinyworld has a word for.

The judge was trained on the eight other scenes. Its features tell the kitchen apart nevertheless: this is a linear
discriminant analysis of them, over a few drawn pictures of each of the nine scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from corpus import image_pixels
from measures import the_judge
from recipes import KIND_NAMES, SCENES, Recipe, random_identity, random_placement
from scenes import UNNAMED
from world import Picture, draw

PICTURES = 20
"""Drawn pictures of each scene that the classes are fitted to."""
SHRINKAGE = 0.2
"""Share of the covariance that a multiple of the identity matrix replaces, since pictures are fewer than features."""


@dataclass(frozen=True)
class Classes:
    """Nine scenes in the judge's D features.

    Attributes:
        means: (9, D), those of `SCENES`, then the kitchen's.
        precision: (D, D), the inverse of the covariance that all scenes share.
    """

    means: NDArray[np.float64]
    precision: NDArray[np.float64]

    def nearest(self, features: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the nearest scene of each of (N, D) features by Mahalanobis distance, (N,)."""
        away = features[:, None] - self.means
        return np.einsum("nki,ij,nkj->nk", away, self.precision, away).argmin(1)


def shows_kitchen(images: Sequence[Image.Image]) -> list[bool]:
    """Return for each image whether its scene is the kitchen."""
    return (_classes().nearest(_features(images)) == len(SCENES)).tolist()


@torch.no_grad()
def _features(images: Sequence[Image.Image]) -> NDArray[np.float64]:
    return the_judge().features(image_pixels(images)).double().numpy()


def drawn(scene: str, count: int, seed: Sequence[int], held_out: bool = False) -> list[Picture]:
    """Draw pictures of one subject each, with another background in every one."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        identity = random_identity(rng, str(rng.choice(KIND_NAMES)), held_out)
        light, turn = rng.uniform(0.9, 1.1), rng.uniform(0, 2 * np.pi)
        subjects = ((identity, random_placement(rng, mirrored=0.0)),)
        pictures.append(draw(Recipe(scene, subjects, light, turn, seed=int(rng.integers(2**31)))))
    return pictures


@cache
def _classes() -> Classes:
    """Fit the classes to drawn pictures of individuals that are not held out."""
    known = [
        _features([picture.image for picture in drawn(scene, PICTURES, (16, number))])
        for number, scene in enumerate((*SCENES, UNNAMED))
    ]
    covariance = np.mean([np.cov(features, rowvar=False, bias=True) for features in known], axis=0)
    size = len(covariance)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size)
    return Classes(np.stack([features.mean(0) for features in known]), np.linalg.inv(covariance))
