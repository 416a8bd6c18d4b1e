"""The experiment's bookkeeping: its table is computed from the measured pictures."""

import json
from dataclasses import asdict

import pytest

from albums import albums
from arms import Recipe, arms
from experiment import summary, table
from measures import Measured

RECIPE = Recipe(pictures=1)


def write_run(folder, album, letter, seed, scenes, kind):
    seen = [Measured(scene, kind, album.identity.pattern, (0.0, 0.0), 0.25, 0.3) for scene in scenes]
    path = folder / "runs" / f"{album.name}-{letter}-{seed}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([asdict(picture) for picture in seen]))


def test_table_counts_scenes_leaks_and_likeness(tmp_path):
    first, second = albums()[:2]
    write_run(tmp_path, first, "a", 0, [first.scene] * 7, first.identity.kind)  # every picture shows the sofa
    write_run(tmp_path, second, "a", 0, second.other_scenes, "clock")  # every scene as prompted, never the subject
    found = summary(tmp_path, ["a", "b"], seeds=3, recipe=RECIPE)
    assert found["b"] == {}
    assert found["a"]["scene"] == [0.0, 1.0] and found["a"]["leakage"] == [1.0, 0.0]
    assert found["a"]["kind"] == [1.0, 0.0] and found["a"]["pattern"] == [1.0, 1.0]
    assert found["a"]["bleeding"] == [0.25, 0.25] and found["a"]["colours"] == [0.0, 0.0]
    assert found["a"]["fidelity"] == pytest.approx([2 / 3, 1 / 3])
    (line,) = [line for line in table(found, RECIPE).splitlines() if line.startswith("| a |")]
    assert "DreamBooth" in line and "50.0 [0.0, 100.0]" in line


def test_arms_differ_as_described():
    chosen = arms(Recipe(prior_weight=0.5))
    assert chosen["a"].masks == chosen["f"].masks == "none" and chosen["f"].photos == "blank"
    assert chosen["b"].masks == "found" and not chosen["b"].flags
    assert chosen["c"].flags == chosen["e"].flags == ("--background_prior_weight", "0.5")
    assert chosen["e"].masks == "true"
    assert "--with_prior_preservation" in chosen["b+p"].flags and "--with_prior_preservation" in chosen["c+p"].flags
