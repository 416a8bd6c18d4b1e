"""Compare one-shot methods in tinyworld: PerSAM, PerSAM-F, INSID3 and their combinations.

    python experiments/tinyworld/finders.py

Each held-out subject has one reference photo; the others show it in other places: alone, beside a subject of another
kind, or beside a look-alike, another individual of its kind. Prints mean IoU and boundary IoU with 95 % intervals
(bootstrap over subjects). The last row is the most that this SAM can reach: it is given the subject's true box.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import SamModel

from loading import check, load
from measures import interval
from models import DINO, SAM
from persam_dreambooth.evaluation.segmentation.metrics import boundary_overlap
from persam_dreambooth.segmentation import (
    INSID3,
    Backbone,
    CropSearch,
    FeatureEncoder,
    Insid3Method,
    Insid3Sam,
    Method,
    OneShotSegmenter,
    PerSAM,
    Reference,
    load_backbone,
)
from persam_dreambooth.segmentation.backbones import Prompts
from persam_dreambooth.segmentation.frame import Frame, bounding_box
from recipes import KIND_NAMES, SCENES, Recipe, random_identity, random_placement
from subjects import Identity
from world import Picture, draw

SIDE = 128
FEATURES_SIZE = 64
Company = Literal["alone", "beside another", "beside a look-alike"]
"""Who else a photo shows: nobody, an individual of another kind, or another individual of the same kind."""
COMPANY: tuple[Company, ...] = ("alone", "beside another", "beside a look-alike")
Finder = Callable[[Picture, list[Picture]], list[NDArray[np.bool_]]]
"""Maps a reference picture and other pictures to the subject's masks in the others."""
Scores = dict[str, dict[Company, list[tuple[float, float]]]]
"""By finder and company: mean IoU and boundary IoU of each subject's masks."""


def photos(identity: Identity, rng: Generator, count: int, company: Company) -> list[Picture]:
    """Draw pictures of one individual in random scenes, alone or beside another individual."""
    made = []
    for _ in range(count):
        subjects = [(identity, random_placement(rng))]
        if company != "alone":
            spots = [0.27, 0.73] if rng.random() < 0.5 else [0.73, 0.27]
            alike = company == "beside a look-alike"
            others = [kind for kind in KIND_NAMES if (kind == identity.kind) == alike]
            while (neighbour := random_identity(rng, str(rng.choice(others)), held_out=True)) == identity:
                pass
            pair = zip((identity, neighbour), spots, strict=True)
            subjects = [(individual, random_placement(rng, spot, 0.66)) for individual, spot in pair]
        light, turn = rng.uniform(0.85, 1.15), rng.uniform(0, 6.28)
        recipe = Recipe(str(rng.choice(SCENES)), tuple(subjects), light, turn, seed=int(rng.integers(2**31)))
        made.append(draw(recipe, SIDE))
    return made


def tiny_sam() -> SamModel:
    """Load tinyworld's SAM in float32."""
    return load(SamModel, SAM).float()


def tiny_dino(size: int = FEATURES_SIZE) -> FeatureEncoder:
    """Load tinyworld's DINOv3, which sees squares of `size` pixels."""
    return FeatureEncoder.from_pretrained(check(DINO), size, "cpu")


def box_mask(sam: Backbone, picture: Picture) -> NDArray[np.bool_]:
    """Return the SAM's mask for the true box around the picture's subject."""
    image = np.asarray(picture.image)
    frame = Frame(*image.shape[:2], sam.image_size)
    box = bounding_box(torch.from_numpy(picture.mask()))
    assert box is not None
    corners = frame.to_model(box.view(2, 2)).flatten()
    asked = Prompts(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int), corners)
    embedding = sam.encode(frame.pixels(image)[None])[0]
    logits, scores = sam.decode(embedding, asked, multimask=True)
    return (frame.to_original(logits[scores.argmax()][None])[0] > 0).numpy()


def finder(method: OneShotSegmenter, reference_mask: Callable[[Picture], NDArray[np.bool_]] = Picture.mask) -> Finder:
    """Turn a method into a function of pictures; `reference_mask` returns the mask that it learns from."""

    def find(reference: Picture, others: list[Picture]) -> list[NDArray[np.bool_]]:
        subject = method.personalize(Reference(reference.image, reference_mask(reference)))
        return [found.mask for found in method.segment([picture.image for picture in others], subject)]

    return find


def with_true_box(sam: Backbone) -> Finder:
    """Return what a SAM finds when it is told each picture's true box."""
    return lambda _, others: [box_mask(sam, picture) for picture in others]


def overlaps(masks: list[NDArray[np.bool_]], pictures: list[Picture]) -> tuple[float, float]:
    """Return the mean IoU and boundary IoU with the subject's true masks."""
    pairs = [(mask, picture.mask()) for mask, picture in zip(masks, pictures, strict=True)]
    ious = [(mask & true).sum() / (mask | true).sum() for mask, true in pairs]
    edges = [boundary_overlap(mask, true) for mask, true in pairs]
    return float(np.mean(ious)), float(np.mean([edge.intersection / max(1, edge.union) for edge in edges]))


def compare(finders: Mapping[str, Finder], subjects: int, count: int) -> Scores:
    """Score finders on `count` photos of each of the same held-out subjects, in each company."""
    scores: Scores = {name: {} for name in finders}
    for company in COMPANY:
        rng = np.random.default_rng(11)
        for number in tqdm(range(subjects), company):
            identity = random_identity(rng, KIND_NAMES[number % len(KIND_NAMES)], held_out=True)
            reference, others = photos(identity, rng, 1, "alone")[0], photos(identity, rng, count, company)
            for name, find in finders.items():
                scores[name].setdefault(company, []).append(overlaps(find(reference, others), others))
    return scores


def table(scores: Scores, cell: Callable[[str, Company], str]) -> str:
    """Format scores, a row for each finder; `cell` words one of them."""
    lines = [f"| | {' | '.join(COMPANY)} |", "| --- |" + " ---: |" * len(COMPANY)]
    lines += [f"| {name} | {' | '.join(cell(name, company) for company in COMPANY)} |" for name in scores]
    return "\n".join(lines)


def both_overlaps(values: list[tuple[float, float]]) -> str:
    """Format overlaps in percent: "IoU [low, high] / boundary IoU"."""
    mean, low, high = (100 * value for value in interval([iou for iou, _ in values]))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}] / {100 * np.mean([edge for _, edge in values]):.1f}"


def common_flags(doc: str | None, subjects: int) -> argparse.ArgumentParser:
    """Return a parser of the flags that all such comparisons have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=subjects, help=f"held-out individuals ({subjects})")
    parser.add_argument("--photos", type=int, default=3, help="photos of each beside the reference (3)")
    return parser


def methods(sam: Backbone, size: int) -> dict[str, OneShotSegmenter]:
    """Return the methods on one SAM; the DINOv3 sees squares of `size` pixels."""
    dino = tiny_dino(size)
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


def main() -> None:
    """Compare the methods and print the table."""
    parser = common_flags(__doc__, 32)
    parser.add_argument("--size", type=int, default=64, help="side of the DINOv3's square in pixels (64)")
    parser.add_argument("--crop_n_layers", type=int, default=0, help="layers of crops that are searched too (0)")
    parser.add_argument("--sam_size", type=int, help="side of the SAM's square in pixels (64, as it was trained)")
    flags = parser.parse_args()
    sam = load_backbone(tiny_sam(), "cpu", size=flags.sam_size)
    compared = methods(sam, flags.size)
    if flags.crop_n_layers:
        compared = {name: CropSearch(method, flags.crop_n_layers) for name, method in compared.items()}
    finders = {name: finder(method) for name, method in compared.items()}
    finders["the SAM with the subject's true box"] = with_true_box(sam)
    scores = compare(finders, flags.subjects, flags.photos)
    print(table(scores, lambda name, company: both_overlaps(scores[name][company])))


if __name__ == "__main__":
    main()
