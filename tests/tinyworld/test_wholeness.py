"""Damages change the drawn subject, the wholeness judge detects them, and poses are compared by outline only."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from damages import ONE_SIDED, SEEN, UNSEEN
from measures import pose_distances
from train_wholeness import held_out_twins, twins
from wholeness import the_wholeness_judge, whole
from world import draw, random_identity, random_recipe


@pytest.mark.parametrize("name", [*SEEN, *UNSEEN])
def test_damaged_twin_differs_only_near_the_subject(name):
    rng = np.random.default_rng(5)
    for kind in ONE_SIDED:
        unbroken, damaged = twins(rng, False, {name: (SEEN | UNSEEN)[name]}, (kind,))
        changed = np.abs(unbroken.astype(int) - damaged).max(-1) > 8
        assert changed.any() and changed.mean() < 0.5
        assert not changed[:2].any()  # the subject stands near the ground


def test_doubled_dog_has_two_heads():
    identity = random_identity(np.random.default_rng(0), "dog")
    counts = {
        sum(part.name == "head" for part in SEEN["doubled"](identity, np.random.default_rng(seed)))
        for seed in range(20)
    }
    assert 2 in counts and max(counts) == 2


def test_trained_and_untrained_damages_are_detected():
    judge = the_wholeness_judge()
    for seen in (True, False):
        unbroken, damaged = ((judge(pixels) > 0).float().mean() for pixels in held_out_twins(200, seen))
        assert unbroken >= 0.85 and damaged <= unbroken - 0.2


def test_empty_scene_shows_no_whole_subject():
    rng = np.random.default_rng(3)
    empty = [draw(random_recipe(rng, crowd=(1, 0, 0, 0))).image for _ in range(20)]
    assert np.mean(whole(empty)) <= 0.2


def test_pose_distance_is_zero_for_copies_and_larger_for_other_poses():
    rng = np.random.default_rng(4)
    photos = [draw(random_recipe(rng, crowd=(0, 1, 0, 0)), 128).image for _ in range(4)]
    assert pose_distances(photos[:2], photos) == [0, 0]
    assert min(pose_distances([ImageOps.flip(photos[0])], [photos[0]])) > 0.1
    moved = Image.new("RGB", (128, 128), photos[0].getpixel((0, 0)))
    moved.paste(photos[0], (6, 0))
    assert pose_distances([moved], [photos[0]])[0] < 0.15
