"""The drawn world: pictures are deterministic, masks nest, and held-out identities stay held out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albums import albums, blank_background, save_album
from corpus import CROWDED, batches, class_numbers, load_corpus
from persam_dreambooth.photos import files
from recipes import (
    HELD_OUT_PAIRS,
    KIND_NAMES,
    RARE_TOKENS,
    SCENES,
    Placement,
    Recipe,
    caption,
    is_held_out,
    random_identity,
    random_recipe,
)
from scenes import PHRASES
from subjects import COLOURS, KINDS, Identity
from world import draw

SEEDS = st.integers(0, 2**31 - 1)


def recipe_of(seed, **settings):
    return random_recipe(np.random.default_rng(seed), **settings)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_recipe_is_drawn_deterministically(seed):
    first, again = draw(recipe_of(seed)), draw(recipe_of(seed))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.caption == again.caption and first.names == again.names
    assert (first.labels == again.labels).all()


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_masks_of_parts_nest(seed):
    picture = draw(recipe_of(seed, crowd=CROWDED))
    for subject in range(len(picture.recipe.subjects)):
        whole = picture.mask(subject)
        for part in picture.parts(subject):
            inside = picture.mask(subject, part)
            assert inside.shape == (64, 64) and (inside <= whole).all()
            assert (inside <= picture.mask(subject, part.split("/")[0])).all()


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_masks_of_two_subjects_do_not_overlap(seed):
    picture = draw(recipe_of(seed, crowd=(0, 0, 1, 1)))
    assert len(picture.recipe.subjects) == 2
    assert not (picture.mask(0) & picture.mask(1)).any()


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_training_never_sees_held_out_identities(seed):
    for identity, _ in (recipe := recipe_of(seed, crowd=CROWDED)).subjects:
        assert not is_held_out(identity)
        assert (identity.kind, recipe.scene) not in HELD_OUT_PAIRS


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_look_alikes_share_kind_and_empty_scenes_are_empty(seed):
    (first, _), (second, _) = recipe_of(seed, crowd=(0, 0, 0, 1)).subjects
    assert first.kind == second.kind
    empty = draw(recipe_of(seed, crowd=(1, 0, 0, 0)))
    assert not empty.recipe.subjects and not empty.labels.any() and "empty scene" in empty.caption


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_captions_describe_picture(seed):
    recipe = recipe_of(seed)
    text = caption(recipe)
    assert all(identity.kind in text.split() for identity, _ in recipe.subjects)
    named = {scene for scene, phrase in PHRASES.items() if text.endswith(phrase)}
    assert named <= {recipe.scene}
    if not recipe.rare_token:
        assert not set(RARE_TOKENS) & set(text.split())


def test_every_kind_and_scene_has_its_held_out_partner():
    assert {kind for kind, _ in HELD_OUT_PAIRS} == set(KIND_NAMES) and len(HELD_OUT_PAIRS) == len(KINDS) == 8
    assert len(SCENES) == 8
    rng = np.random.default_rng(0)
    shares = np.mean([is_held_out(random_identity(rng, held_out=bool(number % 2))) for number in range(20)])
    assert shares == 0.5


def test_subject_has_its_colours_and_moving_it_keeps_scene():
    who = Identity("car", "pink", "teal", "plain", "none")
    left, right = (
        draw(Recipe("snow", ((who, Placement(x, 0.5, 0.2, 0.0, False, 0.0)),), seed=3), side=96) for x in (0.3, 0.7)
    )
    body = left.mask(0, "body") & ~left.mask(0, "wheels")
    mean = np.asarray(left.image)[body].mean(axis=0)
    assert np.abs(mean - COLOURS["pink"]).max() < 45
    free = np.ones((96, 96), dtype=bool)
    free[30:75] = False  # the subjects and their shadows
    difference = np.asarray(left.image)[free].astype(int) - np.asarray(right.image)[free]
    assert (difference == 0).all()


def test_occluder_hides_what_is_behind_it():
    shrunk = 0
    for seed in range(12):
        base = recipe_of(seed, crowd=(0, 1, 0, 0))
        uncovered = draw(Recipe(base.scene, base.subjects, seed=seed)).mask().sum()
        covered = draw(Recipe(base.scene, base.subjects, seed=seed, occluded=True)).mask().sum()
        assert covered <= uncovered
        shrunk += covered < uncovered
    assert shrunk > 3


def test_corpus_is_same_read_drawn_or_in_chunks(tmp_path):
    drawn = load_corpus(tmp_path, "some", 6, seed=5)
    read = load_corpus(tmp_path, "some", 6, seed=5)
    again = load_corpus(tmp_path / "elsewhere", "some", 6, seed=5)
    for other in (read, again):
        assert (drawn.images == other.images).all() and (drawn.labels == other.labels).all()
        assert drawn.facts == other.facts
    scenes, kinds = class_numbers(drawn.facts)
    assert [SCENES[number] for number in scenes] == [fact["scene"] for fact in drawn.facts]
    assert [KIND_NAMES[number] for number in kinds if number >= 0] == [
        f["kinds"][0] for f in drawn.facts if f["kinds"]
    ]


@pytest.mark.parametrize("step", [0, 1, 3, 7, 20])
def test_batches_resume_from_any_step(step):
    whole, rest = batches(10, 3, seed=1), batches(10, 3, seed=1, step=step)
    for _ in range(step):
        next(whole)
    for _ in range(8):
        assert (next(whole) == next(rest)).all()


def test_albums_are_held_out_and_share_background(tmp_path):
    made = albums()
    assert len({album.name for album in made}) == 6
    for album in made:
        assert is_held_out(album.identity)
        outside = ~np.any([picture.mask() for picture in album.pictures], axis=0)
        outside[100:] = False  # shadows
        levels = np.stack([np.asarray(picture.image)[:60][outside[:60]] for picture in album.pictures]).astype(int)
        assert np.abs(levels - levels[0]).mean() < 2
        assert album.scene not in album.other_scenes and len(album.other_scenes) == 7
    photos, masks = save_album(made[0], tmp_path)
    blank = blank_background(made[0], tmp_path / "blank")
    mask = files.read_mask(masks / "03.png")
    assert (mask == made[0].pictures[3].mask()).all()
    photo, painted = (np.asarray(files.read_photo(folder / "03.png")) for folder in (photos, blank))
    assert (painted[mask] == photo[mask]).all() and (painted[~mask] == 200).all()
