"""The choice of a checkpoint from the numbers of a report."""

import pytest

from persam_dreambooth.evaluation.generation.choice import choose


def metrics(rows, photos=None, class_measured=True):
    """Build a report: title -> (subject, background, class likeness); cosines of DINO."""
    names = ("dino_inside", "leakage_dino", "class_likeness")[: 3 if class_measured else 2]
    models = {
        title: {name: {"mean": value} for name, value in zip(names, row, strict=False) if value is not None}
        for title, row in rows.items()
    }
    return {"models": models, "photos": {"dino_inside": 0.9, "leakage_dino": 0.8} if photos is None else photos}


ROWS = {
    "base": (0.5, 0.4, 0.3),
    "step-100": (0.7, 0.44, 0.3),
    "step-200": (0.86, 0.48, 0.36),
    "step-300": (0.9, 0.8, 0.6),
}
STEPS = {"step-100": 100, "step-200": 200, "step-300": 300}


def test_base_is_0_and_photos_are_1():
    choice = choose(metrics(ROWS | {"step-300": (0.9, 0.8, 0.9)}), STEPS)
    last = choice.scores[-1]
    assert (last.fidelity, last.background, last.class_leakage) == pytest.approx((1, 1, 1))
    nothing = choose(metrics({"base": ROWS["base"], "step-100": ROWS["base"]}), {"step-100": 100}).best
    assert (nothing.fidelity, nothing.background, nothing.class_leakage, nothing.score) == (0, 0, 0, 0)


def test_most_faithful_is_not_best_if_it_leaks():
    choice = choose(metrics(ROWS), STEPS)
    assert choice.best.title == "step-200" and choice.best.score == pytest.approx(0.9 - 0.2 - 0.1)
    assert [score.step for score in choice.scores] == [100, 200, 300]
    assert "step-200 is the best of 3" in choice.reason and "subject is at 90%, its background at 20%" in choice.reason
    assert "its images of the class at 10%" in choice.reason and "the next is step-100 at 0.40" in choice.reason
    plain = choice.plain()
    assert (plain["best"], plain["step"], plain["reason"]) == ("step-200", 200, choice.reason)
    assert plain["scores"][1]["score"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("row", "cure", "other"),
    [
        ((0.8, 0.5, 0.7), "--with_prior_preservation", "--background_prior_weight"),
        ((0.6, 0.7, 0.4), "--background_prior_weight", "--with_prior_preservation"),
    ],
)
def test_run_that_leaks_as_much_as_it_learns_is_told_the_cure(row, cure, other):
    leaking = choose(metrics({"base": ROWS["base"], "a": row}), {"a": 1})
    assert leaking.best.score < 0 and cure in leaking.reason and other not in leaking.reason
    assert "train with" not in choose(metrics(ROWS), STEPS).reason


def test_leakage_below_the_base_models_is_not_rewarded():
    (score,) = choose(metrics({"base": ROWS["base"], "a": (0.6, 0.1, 0.1)}), {"a": 1}).scores
    assert score.background < 0 and score.class_leakage < 0 and score.score == pytest.approx(0.25)


def test_earliest_of_equals_is_chosen():
    rows = {"base": ROWS["base"], "b": ROWS["step-200"], "a": ROWS["step-200"]}
    assert choose(metrics(rows), {"b": 9, "a": 3}).best.title == "a"


def test_missing_values():
    rows = ROWS | {"step-200": (None, 0.4, 0.3)}  # nothing found in its pictures
    assert choose(metrics(rows), STEPS).best.title == "step-100"
    assert choose(metrics({"base": ROWS["base"], "a": (None, 0.4, 0.3)}), {"a": 1}) is None
    unmeasured = choose(metrics(ROWS, class_measured=False), STEPS)
    assert unmeasured.best.class_leakage is None and "of the class" not in unmeasured.reason


def test_single_photo_is_compared_with_itself():
    (score,) = choose(metrics({"base": ROWS["base"], "a": (0.75, 0.4, 0.3)}, photos={}), {"a": 1}).scores
    assert score.fidelity == pytest.approx(0.5)


def test_clip_is_used_without_dino():
    rows = {"base": {"clip_i_inside": 0.5, "leakage_clip": 0.5}, "a": {"clip_i_inside": 0.75, "leakage_clip": 0.5}}
    report = {"models": {t: {n: {"mean": v} for n, v in row.items()} for t, row in rows.items()}, "photos": {}}
    assert choose(report, {"a": 1}).best.fidelity == pytest.approx(0.5)
