"""The frontier's protocol: the measures, the points of a curve, and the subjects that are compared."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confounds import choosing, everywhere, reported, with_companion
from protocol import Curve, area, at_identity, best, doublings, frontier, mean_curve, paired, window
from recipes import SCENES, is_held_out

SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=6)


def curve(identity, scene, steps=None, **others):
    steps = steps or [100 * 2**number for number in range(len(identity))]
    values = {"identity": identity, "scene": scene} | others
    return Curve(np.array(steps), {name: np.array(shares, dtype=float) for name, shares in values.items()})


def test_measure_is_read_where_identity_is_first_reached():
    trained = curve([0.0, 0.4, 0.8, 0.6], [1.0, 0.9, 0.5, 0.1], companion=[0.0, 0.0, 0.4, 1.0])
    assert at_identity(trained, "scene", 0.6) == pytest.approx(0.7)  # half way from 0.9 to 0.5
    assert at_identity(trained, "companion", 0.5) == pytest.approx(0.1)  # a quarter of the way from 0 to 0.4
    assert at_identity(trained, "scene", 0.0) == 1.0
    assert at_identity(trained, "scene", 0.8) == pytest.approx(0.5)
    assert np.isnan(at_identity(trained, "scene", 0.81))


def test_frontier_is_best_scene_among_faithful_points():
    trained = curve([0.2, 0.8, 0.4], [0.9, 0.5, 0.7])
    best_scene = frontier(trained, np.array([0.2, 0.3, 0.8, 0.9]))
    cut = 0.9 - 0.4 / 6  # a sixth of the way up beats both corners
    np.testing.assert_allclose(best_scene, [0.9, cut, 0.5, np.nan])


@given(SHARES, st.data())
def test_frontier_falls_and_its_area_lies_between_its_ends(identity, data):
    scene = data.draw(st.lists(st.floats(0, 1), min_size=len(identity), max_size=len(identity)))
    trained = curve(identity, scene)
    heights = frontier(trained, np.linspace(0, max(identity), 7))
    assert all(low <= high + 1e-9 for high, low in pairwise(heights))
    assert 0 <= area(trained) <= max(identity) * max(scene) + 0.011


def test_area_of_straight_frontier():
    assert area(curve([0.0, 1.0], [1.0, 0.0])) == pytest.approx(0.5)
    assert area(curve([0.5, 0.5001], [0.8, 0.8])) == pytest.approx(0.4, abs=0.01)


def test_window_is_where_both_are_good_enough():
    oracle = best(curve([0.0, 1.0], [1.0, 1.0]))
    assert oracle == {"identity": 1.0, "scene": 1.0}
    trained = curve([0.0, 0.8, 1.0, 1.0], [1.0, 1.0, 0.8, 0.0], steps=[100, 200, 400, 800])
    assert window(trained, oracle) == pytest.approx((200, 400), rel=1e-3)
    assert doublings(trained, oracle) == pytest.approx(1, abs=1e-3)
    assert window(curve([0.0, 1.0], [1.0, 0.0]), oracle) is None
    assert doublings(curve([0.0, 1.0], [1.0, 0.0]), oracle) == 0
    # Twice as many steps at the same shape are as many doublings.
    slower = curve([0.0, 0.8, 1.0, 1.0], [1.0, 1.0, 0.8, 0.0], steps=[200, 400, 800, 1600])
    assert doublings(slower, oracle) == pytest.approx(doublings(trained, oracle))


def test_wider_of_two_windows_counts():
    oracle = {"identity": 1.0, "scene": 1.0}
    trained = curve([1.0, 0.0, 1.0, 1.0, 1.0], [1.0] * 5, steps=[25, 50, 100, 200, 400])
    first, last = window(trained, oracle)
    assert last == pytest.approx(400) and 50 < first < 100


def test_curves_are_averaged_per_length():
    mean = mean_curve([curve([0.0, 1.0], [1.0, 1.0]), curve([1.0, 1.0], [0.0, 0.5])])
    assert mean.identity.tolist() == [0.5, 1.0] and mean.scene.tolist() == [0.5, 0.75]
    with pytest.raises(ValueError, match="same steps"):
        mean_curve([curve([0.0, 1.0], [1.0, 1.0]), curve([0.0, 1.0], [1.0, 1.0], steps=[25, 50])])


def test_differences_are_paired_by_subject():
    values = {"first": (0.1, 0.3), "second": (0.8, 1.0)}  # far apart, but each arm is 0.2 better on each

    def gain(names):
        return float(np.mean([values[name][1] - values[name][0] for name in names]))

    assert paired(gain, list(values)) == pytest.approx((0.2, 0.2, 0.2))
    assert np.isnan(paired(lambda names: float("nan") if "first" in names else 1.0, list(values))[1:]).all()


@pytest.mark.parametrize("identity", [[], [0.1, 0.2, 0.3]])
def test_invalid_curve_is_refused(identity):
    with pytest.raises(ValueError, match="a curve"):
        Curve(np.array([100, 100]), {"identity": np.array(identity), "scene": np.array(identity)})


def test_rates_are_tuned_on_other_subjects_than_reported():
    chosen, final = choosing(), reported()
    assert len(final) == 12 and len({subject.name for subject in chosen + final}) == len(chosen + final)
    assert not {subject.identity for subject in chosen} & {subject.identity for subject in final}
    assert all(is_held_out(subject.identity) and is_held_out(subject.companion) for subject in chosen + final)
    assert reported() == final  # drawn at random, but always the same


def test_companion_is_another_kind_and_in_every_photo():
    for subject in (choosing()[0], reported()[3]):
        album = with_companion(subject)
        assert album.companion == subject.companion and subject.companion.kind != subject.identity.kind
        assert len({picture.recipe.scene for picture in album.pictures}) == 5
        for picture in album.pictures:
            assert [identity for identity, _ in picture.recipe.subjects] == [subject.identity, subject.companion]
            assert picture.mask(0).any() and picture.mask(1).any()


def test_oracle_sees_subject_alone_in_all_scenes():
    album = everywhere(choosing()[1])
    assert [len([p for p in album.pictures if p.recipe.scene == scene]) for scene in SCENES] == [5] * len(SCENES)
    assert all(len(picture.recipe.subjects) == 1 for picture in album.pictures)
