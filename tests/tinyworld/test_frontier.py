"""The frontier's bookkeeping: its jobs, and its table and key, computed from the measured pictures."""

import json
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from arms import Recipe
from confounds import choosing
from frontier import RATE, jobs
from frontier_report import MEASURES, read_curve, read_runs, split, write_blind_sheets
from frontier_run import BASE, LENGTHS, ORACLE, SCENELESS
from frontier_tables import tables
from persam_dreambooth.photos import rendering
from protocol import Curve

STEPS = (25, 50, 100)
SEEN = {
    BASE: {"identity": [0.1], "scene": [1.0]},
    ORACLE: {"identity": [0.2, 0.6, 1.0], "scene": [1.0, 1.0, 1.0]},
    "a": {"identity": [0.4, 0.8, 1.0], "scene": [1.0, 0.5, 0.0]},
    "c": {"identity": [0.4, 0.8, 1.0], "scene": [1.0, 1.0, 0.5]},
}


@pytest.fixture
def runs(tmp_path):
    flags = Namespace(seeds=1, confounds=["scene"], arms=["a", "c"], output=tmp_path)
    flags.learning_rate, flags.steps = [("", 0.002), ("a", 0.001)], [("", 100)]
    made = jobs(choosing()[:2], flags, Recipe(lora_rank=4, pictures=1))
    for job in made:
        job.folder.mkdir(parents=True)
        points = [
            {"step": step, "identity": [identity], "fidelity": [identity / 2]}
            | {"scene": [scene], "leakage": [1 - scene], "unprompted": [1 - scene], "uninvited": [False]}
            | {"whole": [True], "pose": [0.5]}
            for step, identity, scene in zip(job.lengths, *SEEN[job.arm].values(), strict=True)
        ]
        (job.folder / f"judged-{len(MEASURES)}.json").write_text(json.dumps(points))
        for length in job.lengths:
            Image.new("RGB", (64 * 11, 64)).save(job.pictures(length))
    return made


def test_jobs_are_base_oracle_and_each_arm_per_confound(runs):
    assert [(job.confound, job.arm) for job in runs[::2]] == [("", BASE), ("", ORACLE), ("scene", "a"), ("scene", "c")]
    assert len({job.folder for job in runs}) == len(runs) and all(job.is_done() for job in runs)
    assert runs[0].lengths == [0] and runs[2].lengths == list(STEPS) == list(LENGTHS[:3])
    prompts = runs[4].prompts()
    assert len(prompts) == 7 + SCENELESS and prompts[-1] == "a sks dog" and "sofa" not in " ".join(prompts)
    assert runs[0].prompts()[-1] == "a dog"
    assert [job.recipe.learning_rate for job in runs[2::2]] == [0.002, 0.001, 0.002]  # oracle, a, c
    (runs[4].pictures(50)).unlink()
    assert not runs[4].is_done()


def test_arms_without_rate_or_steps_have_the_defaults(tmp_path):
    flags = Namespace(seeds=1, confounds=["scene"], arms=["a", "c"], output=tmp_path)
    flags.learning_rate, flags.steps = [("a", 0.001)], [("a", 400)]
    made = jobs(choosing()[:1], flags, Recipe())
    assert [job.recipe.learning_rate for job in made] == [RATE, RATE, 0.001, RATE]  # base, oracle, a, c
    assert [job.lengths[-1] for job in made] == [0, 800, 400, 800]


def test_arm_has_a_row_for_each_of_its_rates(tmp_path):
    flags = Namespace(seeds=1, confounds=["scene"], arms=["a", "c"], output=tmp_path)
    flags.learning_rate, flags.steps = [("", 0.002), ("a", 0.001), ("a", 0.004)], [("", 100)]
    made = jobs(choosing()[:1], flags, Recipe())
    assert [job.row for job in made] == [BASE, ORACLE, "a 0.001", "a 0.004", "c 0.002"]
    assert len({job.folder for job in made}) == len(made)


def test_each_arm_is_compared_with_plain_training_at_each_rate():
    steps, subjects = np.array([50, 100]), ("x", "y")

    def row(scene):
        values = {name: np.array([0.5, 0.5]) for name in MEASURES}
        values |= {"identity": np.array([0.2, 1.0]), "scene": np.array(scene)}
        return {name: [Curve(steps, values)] for name in subjects}

    made = {("", ORACLE): row([1, 1]), ("scene", "a 0.001"): row([1, 0.6]), ("scene", "a 0.004"): row([1, 0.2])}
    lines = tables(made | {("scene", "c 0.002"): row([1, 1])}).splitlines()
    differences = [line.split(" | ")[:2] for line in lines if " - a " in line and "," not in line.split(" | ")[0]]
    assert [(title, value.split()[0]) for title, value in differences] == [
        ("| c 0.002 - a 0.001", "+30.0"),  # at identity 80 %, three quarters of the way from 1 to 0.6
        ("| c 0.002 - a 0.004", "+60.0"),
    ]


def test_table_compares_at_matched_identity(runs):
    text = tables(read_runs(runs))
    assert (
        "| base model | 10.0 | 5.0 | 100.0 | 100.0 | 50.0 |" in text
        and "| oracle, 40 photos in all scenes, 100 steps | 100.0 | 50.0 | 100.0 | 100.0 | 50.0 |" in text
    )
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "scene at identity 80" in rows["arm"]
    assert "| 50.0 [50.0, 50.0] | 50.0 [50.0, 50.0] | 100.0 [100.0, 100.0] |" in rows["a 0.001"] and rows[
        "a 0.001"
    ].endswith("| none |")
    # c draws all prompted scenes at 50 steps; the line from 100 to 50 % crosses 80 % at 66 steps.
    assert "| 100.0 [100.0, 100.0] |" in rows["c 0.002"] and rows["c 0.002"].endswith("| 50 to 66 |")
    assert "| +50.0 [50.0, 50.0] |" in rows["c 0.002 - a 0.001"]


def test_table_has_every_length_and_differences_where_both_were_run():
    def row(steps, scene):
        values = {name: np.array([0.5] * len(steps)) for name in MEASURES} | {"scene": np.array(scene)}
        return {name: [Curve(np.array(steps), values)] for name in ("x", "y")}

    made = {("", ORACLE): row([50, 100], [1, 1])}
    for confound in ("scene", "companion"):
        made[(confound, "a 0.001")] = row([50, 100, 200], [0.9, 0.8, 0.7])
        made[(confound, "c 0.002")] = row([50, 100], [1, 0.95])
    scene, companion = tables(made).split("**scene**")[1].split("**companion**")
    lines = [
        line for line in scene.splitlines() if line.startswith(("| steps", "| scene", "| c 0.002 - a 0.001, scene"))
    ]
    assert lines == [
        "| steps | 50 | 100 | 200 |",
        "| scene: a 0.001 | 90.0 | 80.0 | 70.0 |",
        "| scene: c 0.002 | 100.0 | 95.0 |  |",
        "| c 0.002 - a 0.001, scene | +10.0 [10.0, 10.0] | +15.0 [15.0, 15.0] |  |",
    ]
    assert "| uninvited: c 0.002 | 50.0 | 50.0 |  |" in companion
    assert "uninvited" not in scene, "no photo has a companion there"


def test_run_is_mean_of_its_pictures():
    point = {"step": 25, "identity": [True, False], "fidelity": [0.25, 0.75], "scene": [True], "leakage": [False]}
    point |= {"unprompted": [True], "uninvited": [1, 1, 0, 0], "whole": [True, True], "pose": [0.25, 0.5]}
    curve = read_curve([point])
    assert {name: values.tolist() for name, values in curve.values.items()} == {
        "identity": [0.5],
        "fidelity": [0.5],
        "scene": [1.0],
        "leakage": [0.0],
        "unprompted": [1.0],
        "uninvited": [0.5],
        "whole": [1.0],
        "pose": [0.375],
    }


def test_strip_is_split_into_its_pictures():
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    for found, picture in zip(split(rendering.joined(pictures, across=True)), pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(picture))


def test_blind_sheet_names_no_arm_and_key_names_all(runs, tmp_path):
    write_blind_sheets(tmp_path, runs, read_runs(runs))
    key = json.loads((tmp_path / "blind.json").read_text())
    assert len(key) == 2 and all(sorted(rows) == ["a 0.001", "c 0.002"] for rows in key.values())
    assert (tmp_path / "blind-scene.png").is_file()
