"""Compare one-shot methods in tinyworld: PerSAM, PerSAM-F, INSID3 and their combinations.

    python experiments/tinyworld/finders.py

Each held-out subject has one reference photo; the others show it in other places: alone, beside a subject of another
kind, or beside a look-alike, another individual of its kind. Prints mean IoU and boundary IoU with 95 % intervals
(bootstrap over subjects). The last row is the most that this SAM can reach: it is given the subject's true box.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import SamModel

from ladder import COMPANY, Company, box_mask, photos
from loading import load
from measures import interval
from models import DINO, SAM
from persam_dreambooth.evaluation.segmentation.metrics import boundary_overlap
from persam_dreambooth.segmentation import (
    INSID3,
    FeatureEncoder,
    Insid3Method,
    Insid3Sam,
    Method,
    OneShotSegmenter,
    PerSAM,
    Reference,
    load_backbone,
)
from world import KIND_NAMES, Picture, random_identity

TRUTH = "the SAM with the subject's true box"
Finder = Callable[[Picture, list[Picture]], list[NDArray[np.bool_]]]
"""Maps a reference picture and other pictures to the subject's masks in the others."""


def methods(size: int) -> dict[str, OneShotSegmenter]:
    """Load the methods; the DINOv3 sees squares of `size` pixels."""
    sam = load_backbone(load(SamModel, SAM).float(), "cpu")
    dino = FeatureEncoder.from_pretrained(DINO, size, "cpu")
    insid3 = INSID3(dino)
    return {
        "PerSAM": PerSAM(sam),
        "PerSAM-F": PerSAM(sam, Method.persam_f()),
        "PerSAM, DINOv3's features": PerSAM(sam, features=dino),
        "PerSAM-F, DINOv3's features": PerSAM(sam, Method.persam_f(), dino),
        "INSID3": insid3,
        "INSID3 + SAM": Insid3Sam(insid3, sam),
        "INSID3 + SAM, agreement 0.5": Insid3Sam(INSID3(dino, Insid3Method(agreement=0.5)), sam),
    }


def finder(method: OneShotSegmenter) -> Finder:
    """Turn a method into a function of pictures."""

    def find(reference: Picture, others: list[Picture]) -> list[NDArray[np.bool_]]:
        subject = method.personalize(Reference(reference.image, reference.mask()))
        return [found.mask for found in method.segment([picture.image for picture in others], subject)]

    return find


def overlaps(masks: list[NDArray[np.bool_]], pictures: list[Picture]) -> tuple[float, float]:
    """Return the mean IoU and boundary IoU with the subject's true masks."""
    pairs = [(mask, picture.mask()) for mask, picture in zip(masks, pictures, strict=True)]
    ious = [(mask & true).sum() / (mask | true).sum() for mask, true in pairs]
    edges = [boundary_overlap(mask, true) for mask, true in pairs]
    return float(np.mean(ious)), float(np.mean([edge.intersection / max(1, edge.union) for edge in edges]))


def compare(subjects: int, count: int, size: int) -> dict[str, dict[Company, list[tuple[float, float]]]]:
    """Return each method's overlaps, by method and company, one pair for each subject."""
    loaded = methods(size)
    finders = {name: finder(method) for name, method in loaded.items()}
    sam = loaded["PerSAM"].backbone
    assert sam is not None
    finders[TRUTH] = lambda _, others: [box_mask(sam, picture) for picture in others]
    scores: dict[str, dict[Company, list[tuple[float, float]]]] = {name: {} for name in finders}
    for company in COMPANY:
        rng = np.random.default_rng(11)
        for number in tqdm(range(subjects), company):
            identity = random_identity(rng, KIND_NAMES[number % len(KIND_NAMES)], held_out=True)
            reference, others = photos(identity, rng, 1, "alone")[0], photos(identity, rng, count, company)
            for name, find in finders.items():
                scores[name].setdefault(company, []).append(overlaps(find(reference, others), others))
    return scores


def table(scores: dict[str, dict[Company, list[tuple[float, float]]]]) -> str:
    """Format the overlaps: "IoU [low, high] / boundary IoU", in percent."""
    lines = [f"| | {' | '.join(COMPANY)} |", "| --- |" + " ---: |" * len(COMPANY)]
    for name, row in scores.items():
        cells = []
        for company in COMPANY:
            mean, low, high = (100 * value for value in interval([iou for iou, _ in row[company]]))
            edge = 100 * np.mean([boundary for _, boundary in row[company]])
            cells.append(f"{mean:.1f} [{low:.1f}, {high:.1f}] / {edge:.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Compare the methods and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=32, help="held-out individuals (32)")
    parser.add_argument("--photos", type=int, default=3, help="photos per individual, without the reference (3)")
    parser.add_argument("--size", type=int, default=64, help="side of the DINOv3's square in pixels (64)")
    flags = parser.parse_args()
    print(table(compare(flags.subjects, flags.photos, flags.size)))


if __name__ == "__main__":
    main()
