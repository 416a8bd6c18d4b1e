"""The detector that counts companions in generated pictures is right on held-out drawn pictures."""

import numpy as np

from companions import shows
from world import KIND_NAMES, draw, random_recipe


def held_out(count, crowd, seed):
    rng = np.random.default_rng(seed)
    return [draw(random_recipe(rng, held_out=True, crowd=crowd)) for _ in range(count)]


def test_companion_is_detected_only_if_present():
    pairs, alone = held_out(40, (0, 0, 1, 0), 5), held_out(40, (0, 1, 0, 0), 6)
    there = [shows([picture.image], identity.kind)[0] for picture in pairs for identity, _ in picture.recipe.subjects]
    absent = [
        shows([picture.image], kind)[0]
        for picture in alone
        for kind in KIND_NAMES
        if kind != picture.recipe.subjects[0][0].kind
    ]
    assert np.mean(there) >= 0.85 and np.mean(absent) <= 0.05
