"""Guards the networks that generated pictures are measured by: right on drawn pictures that they never saw."""

import numpy as np
import pytest
from PIL import Image

from companions import shows
from corruptions import HELD_OUT, TRAINED, groups
from identity import ATTRIBUTES, identified, look_alikes
from subjects import KINDS, parts_of
from train_wholeness import draw_chunk
from wholeness import whole
from world import KIND_NAMES, draw, random_identity, random_recipe


def held_out(count, crowd=(0, 1, 0, 0), seed=5):
    rng = np.random.default_rng(seed)
    return [draw(random_recipe(rng, held_out=True, crowd=crowd)) for _ in range(count)]


def test_a_held_out_individual_is_told_from_its_look_alikes():
    pictures = [picture for picture in held_out(80) if not picture.recipe.occluded]
    right = [identified([p.image], p.recipe.subjects[0][0])[0] for p in pictures]
    assert np.mean(right) >= 0.9
    strangers = [identified([p.image], random_identity(np.random.default_rng(n), p.recipe.subjects[0][0].kind))[0]
                 for n, p in enumerate(pictures)]  # fmt: skip
    assert np.mean(strangers) <= 0.15  # 5 % is chance


def test_look_alikes_are_of_one_kind_and_half_of_them_differ_in_one_attribute():
    individual = random_identity(np.random.default_rng(1), "teapot", held_out=True)
    others = look_alikes(individual)
    assert others[0] == individual and len(set(others)) == 20 and {other.kind for other in others} == {"teapot"}
    assert all(other.main != other.second for other in others)
    apart = [sum(vars(other)[name] != vars(individual)[name] for name in ATTRIBUTES) for other in others[1:]]
    assert apart[:10] == [1] * 10 and min(apart) == 1
    assert look_alikes(individual) == others


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_corruption_changes_the_picture_and_leaves_the_scene(kind):
    rng = np.random.default_rng(3)
    recipe = random_recipe(rng, crowd=(0, 1, 0, 0), scene="snow")
    parts = parts_of(random_identity(rng, kind))
    assert len(groups(parts)) >= 3 and set(groups(parts)) <= {part.name for part in KINDS[kind].parts}
    for name, corrupt in (TRAINED | HELD_OUT).items():
        damaged = corrupt(parts, np.random.default_rng(0))
        assert damaged != parts, name
        before, after = (draw(recipe, parts=lambda _, drawn=drawn: drawn) for drawn in (parts, damaged))
        touched = before.mask() | after.mask()
        changed = (np.asarray(before.image) != np.asarray(after.image)).any(-1)
        assert changed.any() and not changed[:4][~touched[:4]].any(), name


def test_whole_subjects_are_told_from_damaged_ones_and_from_damage_never_trained_on():
    assert not set(TRAINED) & set(HELD_OUT)
    images, damages = draw_chunk((77, 200, True, tuple(HELD_OUT)))
    said = np.array(whole([Image.fromarray(image) for image in images]))
    damaged = np.array([bool(damage) for damage in damages])
    assert said[~damaged].mean() >= 0.85 and said[damaged].mean() <= 0.45


def test_a_companion_is_seen_and_none_where_there_is_none():
    pairs, alone = held_out(40, crowd=(0, 0, 1, 0)), held_out(40, seed=6)
    there = [shows([picture.image], identity.kind)[0] for picture in pairs for identity, _ in picture.recipe.subjects]
    absent = [
        shows([picture.image], kind)[0]
        for picture in alone
        for kind in KIND_NAMES
        if kind != picture.recipe.subjects[0][0].kind
    ]
    assert np.mean(there) >= 0.85 and np.mean(absent) <= 0.05
