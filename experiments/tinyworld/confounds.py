"""The frontier's subjects, and what their photos share beside the subject: a background, a companion or a hand.

Learning rates and recipes are chosen on one cast and reported on another; no individual is in both.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from albums import SIDE, SUBJECTS, Album, photograph
from recipes import KIND_NAMES, SCENES, Placement, Recipe, random_identity, random_placement
from scenes import UNNAMED
from subjects import Identity
from world import Picture, draw

REPORTED = 12
PHOTOS = 5
ORACLE_PHOTOS = 40
GLOVE = (164, 230, 40)
"""RGB of the hand's glove, a colour that no subject and no scene has. The VAE does not reproduce it."""
APART = 0.23
"""Distance of subject and companion from the middle, as a share of the picture's side."""


@dataclass(frozen=True)
class Subject:
    """One member of a cast.

    Attributes:
        identity: the individual, held out from all training.
        scene: where its photos are taken; with a companion, the first of them.
        companion: the individual of another kind beside it under the companion confound.
        seed: for its photos.
    """

    identity: Identity
    scene: str
    companion: Identity
    seed: tuple[int, int]

    @property
    def name(self) -> str:
        """A name for folders and tables, unique in all casts."""
        own = self.identity
        return f"{own.kind}-{own.main}-{own.second}-{own.pattern}-{own.accessory}-{self.scene}"


def choosing() -> list[Subject]:
    """The cast on which learning rates and recipes are chosen: the six subjects of `albums`."""
    rng = np.random.default_rng(20)
    return [
        Subject(identity, scene, _companion(rng, identity.kind), (7, number))
        for number, (identity, scene) in enumerate(SUBJECTS)
    ]


def reported() -> list[Subject]:
    """The cast whose numbers are reported: twelve random held-out individuals, each kind once or twice."""
    rng = np.random.default_rng(21)
    taken = [identity for identity, _ in SUBJECTS]
    kinds = [*KIND_NAMES, *rng.permutation(KIND_NAMES)][:REPORTED]
    cast = []
    for number, kind in enumerate(kinds):
        while (identity := random_identity(rng, str(kind), held_out=True)) in taken:
            pass
        taken.append(identity)
        cast.append(Subject(identity, str(rng.choice(SCENES)), _companion(rng, str(kind)), (8, number)))
    return cast


def _companion(rng: np.random.Generator, kind: str) -> Identity:
    """Draw a held-out individual of any kind but `kind`."""
    return random_identity(rng, str(rng.choice([other for other in KIND_NAMES if other != kind])), held_out=True)


def same_scene(subject: Subject) -> Album:
    """Five photos of the subject alone, all on the same background."""
    return photograph(subject.identity, subject.scene, subject.seed, PHOTOS)


def unnamed_scene(subject: Subject) -> Album:
    """Five photos of the subject alone, all on the same background, for which no prompt has a word."""
    return photograph(subject.identity, UNNAMED, subject.seed, PHOTOS)


def with_hand(subject: Subject) -> Album:
    """Five photos in five scenes; in each, the same gloved hand holds the subject from below."""
    rng = np.random.default_rng([*subject.seed, 4])
    pictures = []
    for scene in [subject.scene, *rng.permutation([scene for scene in SCENES if scene != subject.scene])][:PHOTOS]:
        placement = replace(random_placement(rng, mirrored=0.0), x=0.5 + rng.uniform(-0.08, 0.08))
        pictures.append(_held(_draw(str(scene), ((subject.identity, placement),), rng), placement))
    return Album(subject.identity, subject.scene, tuple(pictures))


def _held(picture: Picture, placement: Placement) -> Picture:
    """Paint an arm from the lower edge and four fingers over a picture's subject, and out of its mask."""
    fine = len(picture.labels)
    cover = Image.new("L", (fine, fine))
    pen = ImageDraw.Draw(cover)
    x, wrist = placement.x, placement.y + 0.62 * placement.scale
    pen.rectangle([fine * edge for edge in (x - 0.09, wrist, x + 0.09, 1)], fill=255)
    for finger in (-0.105, -0.035, 0.035, 0.105):
        tip = wrist - 0.3 * placement.scale
        edges = (x + finger - 0.032, tip, x + finger + 0.032, wrist + 0.06)
        pen.rounded_rectangle([fine * edge for edge in edges], radius=fine * 0.03, fill=255)
    image = picture.image.copy()
    image.paste(GLOVE, mask=cover.resize(image.size, Image.Resampling.BOX))
    return replace(picture, image=image, labels=np.where(np.asarray(cover) > 0, 0, picture.labels).astype(np.uint8))


def with_companion(subject: Subject) -> Album:
    """Five photos in five scenes, with the same companion beside the subject in each, on either side."""
    rng = np.random.default_rng([*subject.seed, 1])
    scenes = [subject.scene, *rng.permutation([scene for scene in SCENES if scene != subject.scene])]
    sides = rng.permutation([-1, 1, -1, 1, -1])
    pictures = []
    for scene, side in zip(scenes, sides, strict=False):
        pair = (_beside(rng, 0.5 + side * APART, 0.75), _beside(rng, 0.5 - side * APART, 0.66))
        people = zip((subject.identity, subject.companion), pair, strict=True)
        pictures.append(_draw(str(scene), tuple(people), rng))
    return Album(subject.identity, subject.scene, tuple(pictures), subject.companion)


def everywhere(subject: Subject) -> Album:
    """The oracle's photos: forty of the subject alone, five in each scene, all with different backgrounds."""
    rng = np.random.default_rng([*subject.seed, 2])
    scenes = [scene for scene in SCENES for _ in range(ORACLE_PHOTOS // len(SCENES))]
    pictures = [_draw(scene, ((subject.identity, random_placement(rng, mirrored=0.0)),), rng) for scene in scenes]
    return Album(subject.identity, subject.scene, tuple(pictures))


def _beside(rng: np.random.Generator, x: float, smaller: float) -> Placement:
    return replace(random_placement(rng, smaller=smaller, mirrored=0.0), x=x + rng.uniform(-0.03, 0.03))


def _draw(scene: str, people: tuple[tuple[Identity, Placement], ...], rng: np.random.Generator) -> Picture:
    light, turn = rng.uniform(0.9, 1.1), rng.uniform(0, 2 * np.pi)
    return draw(Recipe(scene, people, light, turn, seed=int(rng.integers(2**31))), SIDE)


CONFOUNDS: dict[str, Callable[[Subject], Album]] = {
    "scene": same_scene,
    "unnamed": unnamed_scene,
    "companion": with_companion,
    "hand": with_hand,
}
"""Confounds by name: each makes an album whose photos share a background, a companion or a hand."""
