"""Identity: is the subject of an image taken for the right individual among look-alikes of the same kind?

The features are those of tinyworld's DINOv3 (`train_dino.py`), which never saw a held-out individual. The gallery is
drawn: a few pictures of the right individual, and of 20 others of its kind.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from corpus import to_pixels
from loading import check
from measures import the_judge
from models import DINO
from persam_dreambooth.segmentation import FeatureEncoder
from recipes import SCENES, Recipe, random_identity, random_placement
from subjects import Identity, Part, parts_of
from world import SIDE, Picture, draw

LOOK_ALIKES = 20
VIEWS = 6
"""Drawn pictures of each individual in the gallery."""


@cache
def the_encoder() -> FeatureEncoder:
    """Load the committed DINOv3."""
    return FeatureEncoder.from_pretrained(check(DINO), SIDE, "cpu")


def portrait(identity: Identity, rng: Generator, build: Callable[[Identity], tuple[Part, ...]] = parts_of) -> Picture:
    """Draw an individual alone in a random scene, facing right; for `build` see `world.draw`."""
    placed, light, turn = random_placement(rng, mirrored=0.0), rng.uniform(0.85, 1.15), rng.uniform(0, 2 * np.pi)
    recipe = Recipe(str(rng.choice(SCENES)), ((identity, placed),), light, turn, seed=int(rng.integers(2**31)))
    return draw(recipe, build=build)


@torch.no_grad()
def appearance(images: Sequence[Image.Image]) -> Tensor:
    """Return (N, C) unit features of the subjects that the judge marks; zeros where it marks none."""
    encoder = the_encoder()
    small = [image.convert("RGB").resize((SIDE, SIDE)) for image in images]
    arrays = np.stack([np.asarray(image) for image in small])
    shown = avg_pool2d((the_judge()(to_pixels(arrays)).mask > 0).float(), SIDE // encoder.cells) > 0.5  # (N, 1, h, w)
    frame = encoder.frame(SIDE, SIDE)
    features = normalize(encoder.encode(torch.stack([frame.pixels(array) for array in arrays])), dim=1)
    return normalize((features * shown).sum((2, 3)), dim=1)


def look_alikes(identity: Identity, rng: Generator, count: int = LOOK_ALIKES) -> list[Identity]:
    """Draw other held-out individuals of the same kind, all different."""
    others: list[Identity] = []
    while len(others) < count:
        other = random_identity(rng, identity.kind, held_out=True)
        if other != identity and other not in others:
            others.append(other)
    return others


class Recognizer:
    """Tells an individual from look-alikes; chance is 1 in `LOOK_ALIKES` + 1.

    Args:
        identity: the right individual.
        seed: of the look-alikes and the gallery's pictures.
    """

    def __init__(self, identity: Identity, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 17])
        individuals = [identity, *look_alikes(identity, rng)]
        views = [appearance([portrait(known, rng).image for _ in range(VIEWS)]) for known in individuals]
        self.gallery = normalize(torch.stack([view.mean(0) for view in views]), dim=1)
        """(1 + look-alikes, C) unit features, the right individual first."""

    def recognizes(self, images: Sequence[Image.Image]) -> list[bool]:
        """Return for each image whether its subject is most like the right individual; False without a subject."""
        seen = appearance(images)
        return [bool(row.any() and (self.gallery @ row).argmax() == 0) for row in seen]
