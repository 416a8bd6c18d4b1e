"""Run tinyworld's SAM on more than the 64 x 64 pixels that it was trained with, without and with BA-SAM's factor.

    python experiments/tinyworld/larger_input.py

The photos have 128 x 128 pixels. Prints mean IoU, in percent, of PerSAM, which locates with the features of
tinyworld's DINOv3, and of the SAM given the subject's true box; then the change against 64 pixels with its 95 %
interval (bootstrap over subjects).
"""

import argparse

import numpy as np
from tqdm import tqdm
from transformers import SamModel

from finders import finder, overlaps
from ladder import COMPANY, FEATURES_SIZE, Company, box_mask, photos
from loading import check, load
from measures import interval
from models import DINO, SAM
from persam_dreambooth.segmentation import Backbone, FeatureEncoder, PerSAM, load_backbone
from persam_dreambooth.segmentation.backbones.larger_input import with_larger_input
from world import KIND_NAMES, random_identity

Scores = dict[tuple[str, str], dict[Company, list[float]]]
"""(method, input) -> company -> each subject's mean IoU."""


def backbones() -> dict[str, Backbone]:
    """Load the SAM at each size, without and with the factor."""
    sam = load(SamModel, SAM).float()
    models = {"64, as trained": sam}
    for side in (96, 128):
        models |= {f"{side}": with_larger_input(sam, side, scaled=False)}
        models |= {f"{side}, with the factor": with_larger_input(sam, side)}
    return {name: load_backbone(model, "cpu") for name, model in models.items()}


def compare(subjects: int, count: int) -> Scores:
    """Segment every subject's photos with every SAM."""
    sams, dino = backbones(), FeatureEncoder.from_pretrained(check(DINO), FEATURES_SIZE, "cpu")
    scores: Scores = {(method, name): {} for method in ("PerSAM", "true box") for name in sams}
    for company in COMPANY:
        rng = np.random.default_rng(11)
        for number in tqdm(range(subjects), company):
            identity = random_identity(rng, KIND_NAMES[number % len(KIND_NAMES)], held_out=True)
            reference, others = photos(identity, rng, 1, "alone")[0], photos(identity, rng, count, company)
            for name, sam in sams.items():
                found = finder(PerSAM(sam, features=dino))(reference, others)
                boxed = [box_mask(sam, picture) for picture in others]
                for method, masks in (("PerSAM", found), ("true box", boxed)):
                    scores[method, name].setdefault(company, []).append(overlaps(masks, others)[0])
    return scores


def table(scores: Scores) -> str:
    """Format the means and their changes."""
    lines = [f"| | pixels | {' | '.join(COMPANY)} |", "| --- | --- |" + " ---: |" * len(COMPANY)]
    for (method, name), row in scores.items():
        cells = []
        for company in COMPANY:
            ious, trained = np.array(row[company]), np.array(scores[method, "64, as trained"][company])
            change, low, high = (100 * value for value in interval(list(ious - trained)))
            cells.append(f"{100 * ious.mean():.1f}")
            if name != "64, as trained":
                cells[-1] += f" {change:+.1f} [{low:+.1f}, {high:+.1f}]"
        lines.append(f"| {method} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Compare and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=24, help="held-out individuals (24)")
    parser.add_argument("--photos", type=int, default=3, help="photos per individual, without the reference (3)")
    flags = parser.parse_args()
    print(table(compare(flags.subjects, flags.photos)))


if __name__ == "__main__":
    main()
