"""Class nouns in tinyworld: does CLIP name the kind of a held-out individual from its photos and masks?

    python experiments/tinyworld/class_nouns.py

The vocabulary is the list of kinds. Prints the share of individuals whose kind is the first suggestion, with 95 %
intervals (bootstrap over individuals), from one photo and from several, for each view of the subject and for all views
together.
"""

import argparse

import numpy as np
from numpy.typing import NDArray
from transformers import CLIPModel

from identity import portrait
from loading import check, load
from measures import interval
from models import CLIP
from persam_dreambooth.segmentation.class_nouns import VIEWS, ClassSuggester, View
from persam_dreambooth.segmentation.pretrained import load_processor
from recipes import KIND_NAMES, random_identity

Shown = list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]
"""Pictures of an individual, with its masks."""


def draw_individuals(count: int, photos: int) -> list[tuple[str, Shown]]:
    """Draw held-out individuals alone in random scenes, each with its kind."""
    rng = np.random.default_rng(23)
    drawn = []
    for number in range(count):
        identity = random_identity(rng, KIND_NAMES[number % len(KIND_NAMES)], held_out=True)
        pictures = [portrait(identity, rng) for _ in range(photos)]
        drawn.append((identity.kind, [(np.asarray(picture.image), picture.mask()) for picture in pictures]))
    return drawn


def accuracies(views: tuple[View, ...], individuals: list[tuple[str, Shown]], photos: int) -> list[bool]:
    """Return for each individual whether its kind is the first suggestion, from its first `photos` pictures."""
    clip, processor = load(CLIPModel, CLIP).float(), load_processor(str(check(CLIP)))
    suggester = ClassSuggester(clip, processor, KIND_NAMES, "cpu", views)
    return [suggester.suggest(shown[:photos], 1)[0][0] == kind for kind, shown in individuals]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--individuals", type=int, default=240, help="held-out individuals (240)")
    parser.add_argument("--photos", type=int, default=4, help="photos per individual in the right column (4)")
    flags = parser.parse_args()
    individuals = draw_individuals(flags.individuals, flags.photos)
    print(f"| view | one photo | {flags.photos} photos |\n| --- | ---: | ---: |")
    for views in (*((view,) for view in VIEWS), VIEWS):
        cells = []
        for photos in (1, flags.photos):
            mean, low, high = (100 * value for value in interval(accuracies(views, individuals, photos)))
            cells.append(f"{mean:.1f} [{low:.1f}, {high:.1f}]")
        print(f"| {' and '.join(view.__name__ for view in views)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
