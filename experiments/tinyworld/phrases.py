"""Phrases in tinyworld: do "a dog" and "a red dog" mark held-out individuals, and reject the masks of others?

    python experiments/tinyworld/phrases.py

With tinyworld's CLIPSeg and SAM. Prints how good the reference masks are that are made from a phrase, and the share of
PerSAM's masks that a phrase lets pass in photos of each group, with 95 % intervals (bootstrap over individuals).
"""

import argparse
from collections import defaultdict

import numpy as np
from tqdm import tqdm

from measures import interval
from models import CLIPSEG, SAM
from persam_dreambooth.errors import UserError
from persam_dreambooth.images import mask_iou
from persam_dreambooth.segmentation import PerSAM, PhraseCheck, Reference, TextLocator, TextPrompt, reference_from_text
from presence import GROUPS, photo, trial
from world import KIND_NAMES, Picture, random_identity

PHRASES = {"kind": "a {kind}", "colour and kind": "a {main} {kind}"}
Scores = dict[tuple[str, str], list[float]]
"""One value per individual, by the phrase and what was measured."""


def reference_iou(persam: PerSAM, locator: TextLocator, picture: Picture, prompt: TextPrompt) -> float:
    """Return the IoU of the mask that a phrase makes with the subject's; 0 if it makes none."""
    try:
        made = reference_from_text(persam, locator, picture.image, prompt)
    except UserError:
        return 0.0
    return mask_iou(made.foreground, picture.mask())


def measure(number: int, photos: int, persam: PerSAM, locator: TextLocator, scores: Scores) -> None:
    """Measure one held-out individual and add its means to the scores."""
    rng = np.random.default_rng([29, number])
    identity = random_identity(rng, KIND_NAMES[number % len(KIND_NAMES)], held_out=True)
    given = photo(rng, identity, ("subject",))
    subject = persam.personalize(Reference(given.image, given.mask()))
    pictures = {
        who: [photo(rng, identity, GROUPS[who]) for _ in range(photos)] for who in GROUPS if who.startswith("the")
    }
    trials = [trial(rng, identity, group) for group in GROUPS for _ in range(photos)]
    for name, form in PHRASES.items():
        prompt = TextPrompt(form.format(kind=identity.kind, main=identity.main))
        for who, shown in pictures.items():
            ious = [reference_iou(persam, locator, picture, prompt) for picture in shown]
            scores[name, f"IoU of the reference mask, {who}"].append(np.mean(ious))
            scores[name, f"IoU above 0.5, {who}"].append(np.mean(np.array(ious) > 0.5))
        check, passed = PhraseCheck(persam, subject, locator, prompt), defaultdict[str, list[bool]](list)
        for one in trials:
            found, presence = check.find(one.image, persam.encode([one.image])[0])
            right = one.mask is None or mask_iou(found.mask, one.mask) > 0.5
            passed[f"{one.group}{'' if right else ', mask on something else'}"].append(presence is None)
        for group, values in passed.items():
            scores[name, f"passes: {group}"].append(np.mean(values))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--individuals", type=int, default=80, help="held-out individuals (80)")
    parser.add_argument("--photos", type=int, default=2, help="photos of each group for each (2)")
    flags = parser.parse_args()
    persam = PerSAM.from_pretrained(str(SAM), device="cpu")
    locator, scores = TextLocator.from_pretrained(CLIPSEG, "cpu"), defaultdict[tuple[str, str], list[float]](list)
    for number in tqdm(range(flags.individuals), unit="individual"):
        measure(number, flags.photos, persam, locator, scores)
    print(f"| | {' | '.join(PHRASES)} |\n| --- | {'---: | ' * len(PHRASES)}")
    for what in dict.fromkeys(measured for _, measured in scores):
        means = [tuple(100 * value for value in interval(scores[name, what])) for name in PHRASES]
        print(f"| {what} | {' | '.join(f'{mean:.1f} [{low:.1f}, {high:.1f}]' for mean, low, high in means)} |")


if __name__ == "__main__":
    main()
