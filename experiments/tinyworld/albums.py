"""A user's photos of one held-out individual: five, all taken in the same place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from persam_dreambooth.photos import files
from recipes import SCENES, Recipe, random_placement
from scenes import PHRASES
from subjects import Identity
from world import Picture, draw

SIDE = 128
"""Pixels of a photo's side: more than the models see, as with real photos."""


@dataclass(frozen=True)
class Album:
    """Five photos of one subject on one background.

    Attributes:
        identity: the subject.
        scene: where all photos were taken; with a companion, the scene of the first.
        pictures: the photos; the first is the reference, and the subject is number 0 in each.
        companion: the individual beside the subject in every photo; None if it is alone.
    """

    identity: Identity
    scene: str
    pictures: tuple[Picture, ...]
    companion: Identity | None = None

    @property
    def name(self) -> str:
        """A name for folders and tables."""
        return f"{self.identity.kind}-{self.scene}"

    @property
    def other_scenes(self) -> list[str]:
        """Every scene but the album's own."""
        return [scene for scene in SCENES if scene != self.scene]

    def prompts(self, scenes: list[str], identifier: str = "sks ") -> list[str]:
        """ "a sks dog in the snow" for each scene."""
        return [f"a {identifier}{self.identity.kind} {PHRASES[scene]}" for scene in scenes]


# Saturated colours, so that bleeding differs from the scenes' own colours; see `docs/tinyworld.md`.
SUBJECTS = (
    (Identity("dog", "pink", "purple", "dotted", "hat"), "sofa"),
    (Identity("cat", "teal", "purple", "checked", "hat"), "city"),
    (Identity("duck", "pink", "red", "checked", "none"), "sofa"),
    (Identity("teapot", "pink", "orange", "checked", "none"), "beach"),
    (Identity("car", "pink", "teal", "dotted", "none"), "sofa"),
    (Identity("robot", "teal", "pink", "dotted", "hat"), "forest"),
)


def albums(count: int = len(SUBJECTS), photos: int = 5, side: int = SIDE) -> list[Album]:
    """The experiment's subjects, each held out from all training."""
    return [
        photograph(identity, scene, [7, number], photos, side)
        for number, (identity, scene) in enumerate(SUBJECTS[:count])
    ]


def photograph(identity: Identity, scene: str, seed: Sequence[int], photos: int = 5, side: int = SIDE) -> Album:
    """Draw `photos` photos of one subject alone, all on the same background."""
    rng = np.random.default_rng(seed)
    background = int(rng.integers(2**31))
    pictures = []
    for _ in range(photos):
        placement = replace(random_placement(rng, mirrored=0.0), x=0.5 + rng.uniform(-0.08, 0.08))
        light, turn = rng.uniform(0.9, 1.1), rng.uniform(0, 6.28)
        recipe = Recipe(scene, ((identity, placement),), light, turn, seed=background)
        pictures.append(draw(recipe, side))
    return Album(identity, scene, tuple(pictures))


def save_album(album: Album, folder: Path) -> tuple[Path, Path]:
    """Write `photos/00.png ...` and the true masks, `masks/00.png ...`; returns both folders."""
    for number, picture in enumerate(album.pictures):
        files.write_picture(picture.image, folder / "photos" / f"{number:02}.png")
        files.write_mask(picture.mask(), folder / "masks" / f"{number:02}.png")
    return folder / "photos", folder / "masks"


def blank_background(album: Album, folder: Path, level: int = 200) -> Path:
    """Write the same photos with everything but the subject painted grey, as in a photo editor."""
    for number, picture in enumerate(album.pictures):
        levels = np.array(picture.image)
        levels[~picture.mask()] = level
        files.write_picture(Image.fromarray(levels), folder / f"{number:02}.png")
    return folder


def backgrounds(folder: Path, count: int = 24) -> None:
    """Write backgrounds to put behind a subject.

    `gradients` have two random colours and show no scene; `scenes` are all eight scenes, empty, so the prompted ones
    are among them.
    """
    rng = np.random.default_rng(11)
    ramp = np.linspace(0, 1, SIDE)
    for number in range(count):
        turn = rng.uniform(0, 2 * np.pi)
        along = np.cos(turn) * ramp[None, :, None] + np.sin(turn) * ramp[:, None, None]
        share = (along - along.min()) / (along.max() - along.min())
        one, other = rng.uniform(0, 255, (2, 3))
        gradient = Image.fromarray((one + share * (other - one)).astype(np.uint8))
        scene = draw(Recipe(SCENES[number % len(SCENES)], (), seed=int(rng.integers(2**31))), SIDE).image
        files.write_picture(gradient, folder / "gradients" / f"{number:02}.png")
        files.write_picture(scene, folder / "scenes" / f"{number:02}.png")
