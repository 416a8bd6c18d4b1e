"""PerSAM's techniques one by one in tinyworld, by PerSeg's protocol: the paper's ablation, and box references.

    python experiments/tinyworld/ladder.py

Each held-out subject has one reference photo; the others show it in other places: alone, beside a subject of another
kind, or beside a look-alike. Prints mean IoU with 95 % intervals (bootstrap over subjects).
"""

import argparse
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import SamModel

from loading import check, load
from measures import percent
from models import DINO, SAM
from persam_dreambooth.segmentation import Backbone, FeatureEncoder, Method, PerSAM, Reference, load_backbone
from persam_dreambooth.segmentation.backbones import Prompts
from persam_dreambooth.segmentation.frame import Frame, bounding_box
from subjects import Identity
from world import KIND_NAMES, SCENES, Picture, Recipe, draw, random_identity, random_placement

SIDE = 128
BARE = Method(negative_prior=False, refinement=False, guided_attention=False, semantic_prompting=False)
LADDER = {
    "positive prior": BARE,
    "+ negative prior": replace(BARE, negative_prior=True),
    "+ cascaded post-refinement": replace(BARE, negative_prior=True, refinement=True),
    "+ target-guided attention": replace(BARE, negative_prior=True, refinement=True, guided_attention=True),
    "+ target-semantic prompting (all of PerSAM)": Method(),
    "PerSAM-F, as released": Method.persam_f(),
    "+ mask weights (PerSAM-F, as printed)": replace(Method(), mask_weights=True),
    "PerSAM-F, paper": Method.persam_f("paper"),
}
FEATURES_SIZE = 64
Company = Literal["alone", "beside another", "beside a look-alike"]
"""Who else a photo shows: nobody, an individual of another kind, or another individual of the same kind."""
COMPANY: tuple[Company, ...] = ("alone", "beside another", "beside a look-alike")


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


def box_mask(sam: Backbone, picture: Picture) -> NDArray[np.bool_]:
    """Return SAM's mask for the box around the subject of a reference photo."""
    image = np.asarray(picture.image)
    frame = Frame(*image.shape[:2], sam.image_size)
    box = bounding_box(torch.from_numpy(picture.mask()))
    assert box is not None
    corners = frame.to_model(box.view(2, 2)).flatten()
    asked = Prompts(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int), corners)
    embedding = sam.encode(frame.pixels(image)[None])[0]
    logits, scores = sam.decode(embedding, asked, multimask=True)
    return (frame.to_original(logits[scores.argmax()][None])[0] > 0).numpy()


def main() -> None:
    """Evaluate each step of the ladder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=24, help="held-out individuals (24)")
    parser.add_argument("--photos", type=int, default=3, help="photos per individual, without the reference (3)")
    parser.add_argument("--features", action="store_true", help="locate with the features of tinyworld's DINOv3")
    flags = parser.parse_args()
    sam = load_backbone(load(SamModel, SAM).float(), "cpu")
    features = FeatureEncoder.from_pretrained(check(DINO), FEATURES_SIZE, "cpu") if flags.features else None
    columns: dict[str, dict[Company, list[float]]] = {}
    for company in COMPANY:
        rng = np.random.default_rng(11)
        for number in tqdm(range(flags.subjects), company):
            identity = random_identity(rng, KIND_NAMES[number % len(KIND_NAMES)], held_out=True)
            reference = photos(identity, rng, 1, "alone")[0]
            others = photos(identity, rng, flags.photos, company)
            for name, method in LADDER.items():
                found = segment(PerSAM(sam, method, features), reference, reference.mask(), others)
                columns.setdefault(name, {}).setdefault(company, []).append(found)
            persam = PerSAM(sam, features=features)
            found = segment(persam, reference, box_mask(sam, reference), others)
            columns.setdefault("all of PerSAM, reference given as a box", {}).setdefault(company, []).append(found)
    print(f"| | {' | '.join(COMPANY)} |\n| --- |" + " ---: |" * len(COMPANY))
    for name, row in columns.items():
        print(f"| {name} | {' | '.join(percent(row[company]) for company in COMPANY)} |")


def segment(persam: PerSAM, reference: Picture, mask: NDArray[np.bool_], others: list[Picture]) -> float:
    """Return the mean IoU of one subject's masks."""
    subject = persam.personalize(Reference(reference.image, mask))
    found = persam.segment([picture.image for picture in others], subject)
    pairs = [(segmentation.mask, picture.mask()) for segmentation, picture in zip(found, others, strict=True)]
    return float(np.mean([(mask & true).sum() / (mask | true).sum() for mask, true in pairs]))


if __name__ == "__main__":
    main()
