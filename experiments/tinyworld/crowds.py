"""Find one subject in a crowd in tinyworld: one-shot methods, and mask proposals ranked in several ways.

    python experiments/tinyworld/crowds.py

Each held-out subject has a reference photo of itself alone. The photos show it among three to five others, one or two
of them look-alikes; in two more photos a further look-alike stands in its place. Prints mean IoU and its difference
from INSID3 + SAM on crops with 95 % intervals (bootstrap over subjects, paired); the share of masks with an IoU above
0.5; how well the mask's similarity separates photos with the subject from those without (area under the ROC curve);
and processor seconds per photo.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm

from agreement import area, with_interval
from finders import SIDE, box_mask, common_flags, tiny_dino, tiny_sam
from larger_input import TRAINED
from measures import interval
from models import CLIP
from persam_dreambooth.images import mask_iou
from persam_dreambooth.segmentation import (
    INSID3,
    ImageEncoder,
    Insid3Sam,
    OneShotSegmenter,
    PerSAM,
    PresenceMeter,
    PresenceRule,
    Reference,
    Subject,
    crops,
    load_backbone,
)
from persam_dreambooth.segmentation.encoding import PhotoEncoder
from persam_dreambooth.segmentation.proposals import PointGrid, prototype
from persam_dreambooth.segmentation.types import EncodedPhoto
from presence import RULE, photo, stranger
from rankings import Candidate, Cells, View, earth_mover, match, matched_share, merged, purity_coverage, views
from recipes import KIND_NAMES, SCENES, Recipe, random_identity, random_placement
from subjects import Identity
from world import Picture, draw

SLOTS = [(x, y) for y in (0.34, 0.76) for x in (0.19, 0.5, 0.81)]
"""The six places in a crowd, two rows of three: (x, y), as shares of the picture's sides."""
SMALLER = 0.45
"""Size of an individual in a crowd, relative to one alone."""
POINTS = 8
"""Points per side of the grid in each view."""
HIT = 0.5
"""IoU above which the subject counts as found."""
ABSENT = 2
"""Photos of each subject in which a look-alike stands in its place."""
BASE = "INSID3 + SAM, crops"
"""The row that the others are compared with."""
MATCHED: dict[str, Callable[[Cells, Candidate], float]] = {
    "proposals: cells matched forward and back": matched_share,
    "proposals: Matcher's purity and coverage": purity_coverage,
    "proposals: Matcher's earth mover's distance": earth_mover,
}
Found = dict[str, tuple[NDArray[np.bool_], float, float]]
"""By method or ranking: its (SIDE, SIDE) bool mask, the mask's similarity to the subject, and its seconds."""
Row = dict[str, Any]
"""One mask: `subject`, `right` (whether the photo shows the subject), `iou`, `similarity` and `seconds`."""


def crowd(rng: Generator, identity: Identity, present: bool) -> Picture:
    """Draw a subject, number 0, or a look-alike in its place, among three to five others, one or two look-alikes."""
    others, alike = int(rng.integers(3, 6)), int(rng.integers(1, 3))
    cast = [identity if present else stranger(rng, identity, same=True)]
    cast += [stranger(rng, identity, same=number < alike) for number in range(others)]
    placed = []
    for individual, slot in zip(cast, rng.permutation(len(SLOTS)), strict=False):
        x, y = (place + rng.uniform(-0.04, 0.04) for place in SLOTS[slot])
        placed.append((individual, replace(random_placement(rng, smaller=SMALLER), x=x, y=y)))
    light, turn = rng.uniform(0.85, 1.15), rng.uniform(0, 6.28)
    return draw(Recipe(str(rng.choice(SCENES)), tuple(placed), light, turn, seed=int(rng.integers(2**31))), SIDE)


class Models:
    """The methods to compare, and what the rankings use.

    Args:
        sam_size: side of the SAM's square, in pixels.
    """

    def __init__(self, sam_size: int) -> None:
        self.sam = load_backbone(tiny_sam(), "cpu", size=None if sam_size == TRAINED else sam_size)
        dino = tiny_dino()
        self.insid3, self.points = INSID3(dino), PointGrid(self.sam, POINTS)
        self.encode_sam, self.encode_dino = PhotoEncoder(self.sam), PhotoEncoder(dino)
        # The presence rule was made with the SAM's trained size, and judges masks of any origin.
        self.judge, self.rule = PerSAM(load_backbone(tiny_sam(), "cpu")), PresenceRule.load(RULE)
        self.clip = ImageEncoder.from_pretrained(CLIP, "cpu")
        self.methods: dict[str, OneShotSegmenter] = {
            "PerSAM": PerSAM(self.sam),
            "PerSAM, DINOv3's features": PerSAM(self.sam, features=dino),
            "INSID3": self.insid3,
            "INSID3 + SAM": Insid3Sam(self.insid3, self.sam),
        }


class Search:
    """Searches photos for a subject with all methods and rankings.

    Args:
        models: the methods.
        reference: the subject's photo and mask.
    """

    def __init__(self, models: Models, reference: Reference) -> None:
        self._models, mask = models, torch.from_numpy(reference.foreground)
        self._subjects = {name: method.personalize(reference) for name, method in models.methods.items()}
        self._sam_target = prototype(models.encode_sam([reference.pixels])[0], mask)
        self._dino_target = prototype(models.encode_dino([reference.pixels])[0], mask)
        self._judged = models.judge.personalize(reference)
        self._meter = PresenceMeter(models.judge, self._judged, [reference], models.clip)

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[Found, list[Candidate]]:
        """Search an (H, W, 3) uint8 photo; return all masks, and the proposals that were ranked."""
        shown, found, start = views(pixels), Found(), time.process_time()
        dinos = [self._models.encode_dino([view.pixels])[0] for view in shown]

        def likeness(candidate: Candidate) -> float:
            return float(prototype(dinos[candidate.view], torch.from_numpy(candidate.part)) @ self._dino_target)

        def keep(name: str, ranked: Sequence[Candidate], rate: Callable[[Candidate], float], before: float) -> None:
            started = time.process_time()
            whole = [candidate for candidate in ranked if candidate.mask.any()]
            best = max(whole, key=rate, default=None)
            seconds = before + time.process_time() - started
            found[name] = (best.mask, likeness(best), seconds) if best else (np.zeros((SIDE, SIDE), bool), -1, seconds)

        compared = time.process_time() - start
        for name, method in self._models.methods.items():
            subject, own, encoded, spent = self._subjects[name], [], [], []
            for number, view in enumerate(shown):
                start = time.process_time()
                encoded += method.encode([view.pixels])
                result = method.segment(encoded[-1], subject)
                own.append(place(number, view, result.mask, result.score))
                spent.append(time.process_time() - start)
            keep(f"{name}, whole photo", own[:1], likeness, spent[0])
            keep(f"{name}, crops", own, partial(own_likeness, encoded, subject), sum(spent))
        start = time.process_time()
        sams = [self._models.encode_sam([view.pixels])[0] for view in shown]
        proposals = self._proposals(shown, sams)
        before = time.process_time() - start

        def likeness_to_sam(candidate: Candidate) -> float:
            return float(prototype(sams[candidate.view], torch.from_numpy(candidate.part)) @ self._sam_target)

        keep("proposals: predicted IoU", proposals, lambda candidate: candidate.score, before)
        keep("proposals: prototype, SAM's features", proposals, likeness_to_sam, before)
        keep("proposals: prototype, DINOv3's features", proposals, likeness, before + compared)
        start = time.process_time()
        cells = self._cells(shown)
        matching = before + time.process_time() - start
        for name, rate in MATCHED.items():
            keep(name, proposals, lambda candidate, rate=rate: rate(cells, candidate), matching)
        keep("proposals: presence rule", proposals, self._presence(shown), before)
        rough, _, seconds = found["INSID3, crops"]
        keep(
            "proposals: IoU with INSID3's mask on crops",
            proposals,
            lambda candidate: mask_iou(candidate.mask, rough),
            before + seconds,
        )
        union = merged(proposals, rough)
        whole_photo = [Candidate(0, union, union, 0.0)]
        keep("proposals: merged inside INSID3's mask on crops", whole_photo, likeness, before + seconds)
        return found, proposals

    def _proposals(self, shown: Sequence[View], sams: Sequence[EncodedPhoto]) -> list[Candidate]:
        """Propose masks in every view, for a grid of points."""
        return [
            place(number, view, proposal.mask(), proposal.score)
            for number, (view, encoded) in enumerate(zip(shown, sams, strict=True))
            for proposal in self._models.points(view.pixels, encoded)
        ]

    def _cells(self, shown: Sequence[View]) -> Cells:
        """Match the reference's cells with those of all views, in INSID3's features."""
        memory = self._subjects["INSID3"].memory
        assert memory is not None
        encoded = self._models.insid3.encode([view.pixels for view in shown])
        return match(memory.features, memory.labels > 0, shown, encoded)

    def _presence(self, shown: Sequence[View]) -> Callable[[Candidate], float]:
        """Return a function that rates a mask by the presence rule's probability."""
        photos = [self._models.judge.encode([view.pixels])[0] for view in shown]
        marked = [self._models.judge.segment(encoded, self._judged) for encoded in photos]

        def rate(candidate: Candidate) -> float:
            result = replace(marked[candidate.view], mask=candidate.part, score=candidate.score)
            scores = self._meter(shown[candidate.view].pixels, photos[candidate.view], result)
            return self._models.rule.decide(scores).probability

        return rate


def own_likeness(encoded: Sequence[EncodedPhoto], subject: Subject, candidate: Candidate) -> float:
    """Rate a mask as `CropSearch` does, in the features of the method that found it."""
    return crops.likeness(encoded[candidate.view], candidate.part, subject)


def place(number: int, view: View, part: NDArray[np.bool_], score: float) -> Candidate:
    """Place a view's mask in the photo."""
    return Candidate(number, part, view.on_photo(part, (SIDE, SIDE)), score)


def measure(models: Models, number: int, count: int) -> tuple[dict[str, Row], ...]:
    """Search for one held-out subject in `count` crowds with it and in `ABSENT` without; return each photo's rows."""
    rng = np.random.default_rng([5, number])
    identity = random_identity(rng, KIND_NAMES[number % len(KIND_NAMES)], held_out=True)
    reference = photo(rng, identity, ("subject",))
    search, photos = Search(models, Reference(reference.image, reference.mask())), []
    for present in [True] * count + [False] * ABSENT:
        picture = crowd(rng, identity, present)
        found, proposals = search(np.asarray(picture.image))
        truth = picture.mask()
        if present:
            best = max(proposals, key=lambda candidate: mask_iou(candidate.mask, truth), default=None)
            found["limit: the best proposal"] = (best.mask if best else np.zeros_like(truth), np.nan, np.nan)
            found["limit: the SAM with the true box"] = (box_mask(models.sam, picture), np.nan, np.nan)
        common = {"subject": number, "right": present, "proposals": len(proposals)}
        photos.append(
            {
                name: {**common, "iou": mask_iou(mask, truth), "similarity": likeness, "seconds": seconds}
                for name, (mask, likeness, seconds) in found.items()
            }
        )
    return tuple(photos)


def report(photos: Sequence[dict[str, Row]]) -> str:
    """Return the table, a row for each method and ranking."""
    lines = [
        f"| | IoU | against {BASE} | IoU > {HIT:g} | area under the ROC curve | seconds |",
        "| --- |" + " ---: |" * 5,
    ]
    base = by_subject([shown[BASE] for shown in photos])
    for name in photos[0]:
        rows = [shown[name] for shown in photos if name in shown]
        own, right = by_subject(rows), np.array([row["right"] for row in rows])
        iou, change = (
            f"{100 * mean:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
            for sign, (mean, low, high) in (("", interval(own)), ("+", interval(list(np.subtract(own, base)))))
        )
        hits = f"{100 * np.mean([row['iou'] > HIT for row in rows if row['right']]):.0f} %"
        likeness, told = np.array([row["similarity"] for row in rows]), ""
        if not right.all():
            told = with_interval(lambda kept, a=likeness, b=right: area(a[kept], b[kept]), rows)
        seconds = f"{np.mean([row['seconds'] for row in rows]):.2f}" if told else ""
        lines.append(f"| {name} | {iou} | {change} | {hits} | {told} | {seconds} |")
    count = np.mean([shown[BASE]["proposals"] for shown in photos])
    present = sum(shown[BASE]["right"] for shown in photos)
    crowds = f"{present} photos with the subject, {len(photos) - present} without; {count:.1f} proposals in each"
    return "\n".join([*lines, "", crowds])


def by_subject(rows: Sequence[Row]) -> list[float]:
    """Return the mean IoU of each subject's photos that show it."""
    shown = [row for row in rows if row["right"]]
    numbers = sorted({row["subject"] for row in shown})
    return [float(np.mean([row["iou"] for row in shown if row["subject"] == number])) for number in numbers]


def main() -> None:
    """Measure and print the table."""
    parser = common_flags(__doc__, 24)
    parser.add_argument("--sam_size", type=int, default=96, help="side of the SAM's square in pixels (96)")
    flags = parser.parse_args()
    models = Models(flags.sam_size)
    subjects = tqdm(range(flags.subjects), "measuring", unit="subject")
    print(report([shown for number in subjects for shown in measure(models, number, flags.photos)]))


if __name__ == "__main__":
    main()
