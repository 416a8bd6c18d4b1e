"""Calibrate the presence rule of tinyworld's SAM on photos with the subject, with others, and of empty scenes.

    python experiments/tinyworld/presence.py

Writes `models/sam/presence.json`, which `persam-dreambooth segment` finds beside the SAM, prints how the rule
judges the other half of the subjects, and plots the ROC curves. Five minutes on one core.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.random import Generator
from tqdm import tqdm

from models import CLIP, SAM
from persam_dreambooth.evaluation.segmentation.presence import (
    Trial,
    fit_rule,
    judge,
    measure,
)
from persam_dreambooth.evaluation.segmentation.presence_report import draw_curves, rows, table
from persam_dreambooth.segmentation import ImageEncoder, PerSAM, Reference
from persam_dreambooth.segmentation.presence import DRAWINGS
from recipes import KIND_NAMES, SCENES, Recipe, random_identity, random_placement
from subjects import Identity
from world import Picture, draw

SIDE = 128
RULE = SAM / "presence.json"
MADE_ON = f"{DRAWINGS} (tinyworld)"
GROUPS = {
    "the subject alone": ("subject",),
    "the subject beside another kind": ("subject", "another kind"),
    "an empty scene": (),
    "another kind": ("another kind",),
    "a look-alike": ("look-alike",),
    "a look-alike beside another kind": ("look-alike", "another kind"),
}
"""Who is in the photos of each group; a look-alike has the same kind but other colours, pattern or accessory."""


def main() -> None:
    """Fit the rule on one half of the subjects and judge the other half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--subjects", type=int, default=160, help="held-out individuals, half of them for testing (160)"
    )
    parser.add_argument("--photos", type=int, default=3, help="photos of each group per individual (3)")
    parser.add_argument("--rule", type=Path, default=RULE, help="where the rule is written (the SAM's folder)")
    parser.add_argument("--curves", type=Path, default=Path("docs/pictures/presence.png"), help="the ROC curves")
    flags = parser.parse_args()
    persam = PerSAM.from_pretrained(SAM, device="cpu")
    encoder = ImageEncoder.from_pretrained(CLIP, "cpu")
    half = flags.subjects // 2
    learned = tqdm(subjects(0, half, flags.photos), desc="Measuring", total=half, unit="subject")
    measured = list(measure(persam, encoder, learned))
    rules = {
        "SAM's scores": fit_rule(measured, persam.checksum, None, MADE_ON),
        "with CLIP's appearance": fit_rule(measured, persam.checksum, "../clip", MADE_ON),
    }
    judged = {}
    for name, rule in rules.items():
        others = tqdm(subjects(half, flags.subjects, flags.photos), desc="Judging", total=half, unit="subject")
        judged[name] = list(judge(persam, rule, encoder, others))
        weights = ", ".join(f"{score} {weight:.2f}" for score, weight in rule.weights.items())
        print(f"\n{name} ({weights})\n\n{table(rows(judged[name]))}")
    rules["with CLIP's appearance"].save(flags.rule)
    draw_curves(judged, flags.curves)


def subjects(start: int, end: int, photos: int) -> Iterator[tuple[Reference, list[Trial]]]:
    """Yield the held-out individuals `start` to `end`, each with a reference photo and `photos` trials per group."""
    for number in range(start, end):
        rng = np.random.default_rng([3, number])
        identity = random_identity(rng, KIND_NAMES[number % len(KIND_NAMES)], held_out=True)
        reference = photo(rng, identity, ("subject",))
        trials = [trial(rng, identity, group) for group in GROUPS for _ in range(photos)]
        yield Reference(reference.image, reference.mask()), trials


def trial(rng: Generator, identity: Identity, group: str) -> Trial:
    """Draw one photo of a group, with the subject's mask if it is there."""
    picture = photo(rng, identity, GROUPS[group], occluded=rng.random() < 0.12)
    return Trial(picture.image, picture.mask() if "subject" in GROUPS[group] else None, group)


def photo(rng: Generator, identity: Identity, who: tuple[str, ...], occluded: bool = False) -> Picture:
    """Draw a picture in a random scene; two subjects stand side by side in either order."""
    spots = rng.permutation([0.27, 0.73]).tolist() if len(who) == 2 else [0.5] * len(who)
    cast = {"subject": lambda: identity, "look-alike": lambda: stranger(rng, identity, same=True)}
    cast["another kind"] = lambda: stranger(rng, identity, same=False)
    smaller = 1.0 if len(who) < 2 else 0.66
    placed = tuple((cast[role](), random_placement(rng, x, smaller)) for role, x in zip(who, spots, strict=True))
    light, turn = rng.uniform(0.85, 1.15), rng.uniform(0, 6.28)
    seed = int(rng.integers(2**31))
    return draw(Recipe(str(rng.choice(SCENES)), placed, light, turn, occluded=occluded, seed=seed), SIDE)


def stranger(rng: Generator, identity: Identity, same: bool) -> Identity:
    """Draw another individual, of the same kind or of another."""
    kinds = [identity.kind] if same else [kind for kind in KIND_NAMES if kind != identity.kind]
    while (other := random_identity(rng, str(rng.choice(kinds)), held_out=True)) == identity:
        continue
    return other


if __name__ == "__main__":
    main()
