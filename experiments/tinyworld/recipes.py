"""Recipes of tinyworld's pictures: subjects and their places, scenes, light, captions; drawn from random numbers.

Held-out identities (`is_held_out`) and (kind, scene) pairs (`HELD_OUT_PAIRS`) are never drawn for training.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from scenes import PHRASES
from subjects import ACCESSORIES, COLOURS, KINDS, PATTERNS, Identity

SCENES = tuple(PHRASES)
KIND_NAMES = tuple(KINDS)
RARE_TOKENS = ("sks", "zwx", "ohwx", "olis")
"""Words without a meaning that some captions contain, like the rare tokens of a large model."""
HELD_OUT_PAIRS = frozenset((kind, SCENES[(3 * number + 2) % len(SCENES)]) for number, kind in enumerate(KIND_NAMES))


@dataclass(frozen=True)
class Placement:
    """A subject's position in the picture.

    Attributes:
        x, y: centre of its frame, in units of the picture's side, y down.
        scale: half the side of its frame, in the same units.
        rotation: angle in radians.
        flip: whether it is mirrored.
        pose: rotation of its parts, in [-1, 1].
    """

    x: float
    y: float
    scale: float
    rotation: float
    flip: bool
    pose: float


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a picture.

    Attributes:
        scene: a key of `PHRASES`.
        subjects: the subjects, from back to front.
        light: brightness of the subjects, about 1.
        light_from: direction of the light in radians.
        occluded: whether a piece of the scene is in front of the subjects.
        seed: for the scene's details.
        rare_token: a word before the first subject's name in the caption, or None.
        detail: a number in [0, 1) that selects the optional words of the caption.
    """

    scene: str
    subjects: tuple[tuple[Identity, Placement], ...]
    light: float = 1.0
    light_from: float = 0.0
    occluded: bool = False
    seed: int = 0
    rare_token: str | None = None
    detail: float = 0.0


def is_held_out(identity: Identity) -> bool:
    """Whether an individual is held out from training: one in six, by a hash of its attributes."""
    words = f"{identity.kind} {identity.main} {identity.second} {identity.pattern} {identity.accessory}"
    return zlib.crc32(words.encode()) % 6 == 0


def random_identity(rng: Generator, kind: str | None = None, held_out: bool = False) -> Identity:
    """Draw an individual, held out or not."""
    while True:
        main, second = rng.choice(list(COLOURS), size=2, replace=False)
        identity = Identity(
            kind or str(rng.choice(KIND_NAMES)),
            str(main),
            str(second),
            str(rng.choice(PATTERNS)),
            str(rng.choice(ACCESSORIES)),
        )
        if is_held_out(identity) == held_out:
            return identity


def random_placement(rng: Generator, x: float = 0.5, smaller: float = 1.0, mirrored: float = 0.5) -> Placement:
    """Draw a placement near the ground and near `x`; `mirrored` is the probability of `Placement.flip`."""
    return Placement(
        x=x + rng.uniform(-0.1, 0.1),
        y=0.58 + rng.uniform(-0.08, 0.1),
        scale=rng.uniform(0.28, 0.4) * smaller,
        rotation=rng.normal(0, 0.12),
        flip=bool(rng.random() < mirrored),
        pose=rng.uniform(-1, 1),
    )


def random_recipe(
    rng: Generator,
    held_out: bool = False,
    scene: str | None = None,
    crowd: tuple[float, float, float, float] = (0.05, 0.85, 0.07, 0.03),
    mirrored: float = 0.5,
) -> Recipe:
    """Draw a recipe for training, or one with held-out identities for tests.

    Args:
        rng: the random numbers to draw from.
        held_out: draw held-out identities; otherwise neither these nor held-out pairs are drawn.
        scene: a key of `PHRASES`; random if None.
        crowd: relative frequencies of no subject, one, two of different kinds, and two look-alikes (of one kind).
        mirrored: share of subjects that face left.
    """
    scene = scene or str(rng.choice(SCENES))
    kinds = [kind for kind in KIND_NAMES if held_out or (kind, scene) not in HELD_OUT_PAIRS]
    number = int(rng.choice(4, p=np.array(crowd) / sum(crowd)))
    chosen = [str(kind) for kind in rng.choice(kinds, size=min(number, 2), replace=False)]
    if number == 3:
        chosen[1] = chosen[0]
    placements = [random_placement(rng, mirrored=mirrored)]
    if number > 1:
        placements = [random_placement(rng, x, 0.66, mirrored) for x in rng.permutation([0.27, 0.73])]
    subjects = zip((random_identity(rng, kind, held_out) for kind in chosen), placements, strict=False)
    return Recipe(
        scene=scene,
        subjects=tuple(subjects),
        light=rng.uniform(0.8, 1.15),
        light_from=rng.uniform(0, 2 * np.pi),
        occluded=bool(rng.random() < 0.12),
        seed=int(rng.integers(2**31)),
        rare_token=str(rng.choice(RARE_TOKENS)) if rng.random() < 0.1 else None,
        detail=rng.random(),
    )


def caption(recipe: Recipe) -> str:
    """Describe a recipe, leaving out some words: "a sks red striped dog with a hat in the snow"."""
    rng = np.random.default_rng(int(recipe.detail * 2**31))
    words = []
    for number, (identity, _) in enumerate(recipe.subjects):
        said = ["a"]
        if number == 0 and recipe.rare_token:
            said.append(recipe.rare_token)
        if rng.random() < 0.5:
            said.append(identity.main)
            if rng.random() < 0.6 and identity.pattern != "plain":
                said.append(f"and {identity.second} {identity.pattern}")
        said.append(identity.kind)
        if identity.accessory != "none" and rng.random() < 0.5:
            said.append(f"with a {identity.accessory}")
        words.append(" ".join(said))
    subject = " and ".join(words) or "an empty scene"
    return subject if recipe.subjects and rng.random() < 0.08 else f"{subject} {PHRASES[recipe.scene]}"
