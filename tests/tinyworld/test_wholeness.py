"""Damages change the drawn subject, the measure of wholeness detects them, and poses are compared by outline only."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.ndimage import rotate, shift

from damages import DAMAGES, ONE_SIDED
from identity import portrait
from measures import pose_distances
from recipes import KIND_NAMES, Recipe, random_identity, random_placement, random_recipe
from score import score_generated_outlines
from subjects import parts_of
from wholeness import are_whole, nearest, normalized, softened, whole
from world import draw


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_twin_differs_only_near_the_subject(name):
    rng = np.random.default_rng(5)
    for kind in ONE_SIDED:
        recipe = Recipe("snow", ((random_identity(rng, kind), random_placement(rng)),))
        unbroken = np.asarray(draw(recipe).image).astype(int)
        damaged = np.asarray(draw(recipe, build=lambda identity: DAMAGES[name](identity, rng)).image)
        changed = np.abs(unbroken - damaged).max(-1) > 8
        assert changed.any() and changed.mean() < 0.5
        assert not changed[:2].any()  # the subject stands near the ground


def test_doubled_dog_has_two_heads():
    identity = random_identity(np.random.default_rng(0), "dog")
    parts = [DAMAGES["doubled"](identity, np.random.default_rng(seed)) for seed in range(20)]
    counts = {sum(part.name == "head" for part in doubled) for doubled in parts}
    assert 2 in counts and max(counts) == 2
    assert sum(part.name == "head" for part in parts_of(identity)) == 1


def test_whole_subjects_count_as_whole_and_damaged_ones_less_often():
    rng = np.random.default_rng(13)
    kinds = ("dog", "duck")
    unbroken = np.mean(are_whole(kinds, 40, rng))
    shares = {name: np.mean(are_whole(kinds, 20, rng, damage)) for name, damage in DAMAGES.items()}
    assert unbroken >= 0.85
    assert max(shares.values()) <= unbroken - 0.2, shares
    assert shares["erased"] == 0


def test_generated_images_are_compared_with_whole_subjects_of_their_own_kind():
    rng = np.random.default_rng(6)
    dogs = softened([portrait(random_identity(rng, "dog"), rng).image for _ in range(20)])
    own, other = (score_generated_outlines({kind: [dogs[:10], dogs[10:]]}) for kind in ("dog", "duck"))
    assert len(own["generated, whole"]) == 20 and np.mean(own["generated, whole"]) >= 0.8
    assert np.mean(other["generated, whole"]) <= np.mean(own["generated, whole"]) - 0.3


def test_normalized_outline_does_not_depend_on_place_and_size():
    mask = draw(random_recipe(np.random.default_rng(1), crowd=(0, 1, 0, 0)), 256).mask()
    moved, smaller = shift(mask, (20, -30), order=0), mask[::2, ::2]
    known = normalized(mask)[None]
    assert min(nearest([mask, moved, smaller], known)) > 0.95
    assert nearest([rotate(mask, 90, reshape=False, order=0)], known)[0] < 0.8
    assert nearest([np.zeros_like(mask)], known)[0] == 0


def test_empty_scene_shows_no_whole_subject():
    rng = np.random.default_rng(3)
    empty = [draw(random_recipe(rng, crowd=(1, 0, 0, 0))).image for _ in range(20)]
    assert np.mean(whole(empty, KIND_NAMES[0])) <= 0.1


def test_copied_photo_has_no_distance_and_another_pose_has():
    rng = np.random.default_rng(4)
    photos = [draw(random_recipe(rng, crowd=(0, 1, 0, 0)), 128).image for _ in range(4)]
    assert pose_distances(photos[:2], photos) == [0, 0]
    assert min(pose_distances([ImageOps.flip(photos[0])], [photos[0]])) > 0.1
    moved = Image.new("RGB", (128, 128), photos[0].getpixel((0, 0)))
    moved.paste(photos[0], (6, 0))
    assert pose_distances([moved], [photos[0]])[0] < 0.15
