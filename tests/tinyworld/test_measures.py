"""The measures that count companions and kitchens in generated pictures are right on held-out drawn pictures."""

import numpy as np

from companions import shows
from confounds import GLOVE, reported, unnamed_scene, with_hand
from kitchen import drawn, shows_kitchen
from recipes import KIND_NAMES, SCENES, random_recipe
from scenes import UNNAMED
from wholeness import softened
from world import draw


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


def test_kitchen_is_told_from_the_scenes_that_have_a_word():
    there, elsewhere = (
        [picture.image for scene in scenes for picture in drawn(scene, count, (5, 5), held_out=True)]
        for scenes, count in (((UNNAMED,), 12), (SCENES, 4))
    )
    assert all(shows_kitchen(softened(there))) and not any(shows_kitchen(softened(elsewhere)))
    photos = [picture.image for subject in reported() for picture in unnamed_scene(subject).pictures]
    assert all(shows_kitchen(photos))


def test_hand_is_not_part_of_the_mask():
    for picture in with_hand(reported()[0]).pictures:
        gloved = (np.asarray(picture.image) == GLOVE).all(-1)
        assert gloved.any() and not (gloved & picture.mask()).any()
