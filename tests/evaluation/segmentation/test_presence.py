"""The calibration of a presence rule: its photos, the logistic fit, and the verb's output."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from albums import albums
from models import CLIP, SAM
from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.folders import PerSeg
from persam_dreambooth.evaluation.segmentation.presence import (
    DOUBTED,
    LOST,
    fit_rule,
    halves,
)
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import PresenceRule, PresenceScores
from tests.evaluation.segmentation import datasets

OBJECTS = ("bear", "cat", "dog", "mug", "shoe", "tram")
MIDDLE = PresenceScores(likeness=0.9, contrast=0.5, cycle=0.8, score=0.9, appearance=0.7)


def random_scores(count, seed=0):
    """Random presence scores; likeness and appearance separate right from wrong, the others are uninformative."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        right = number % 2 == 0
        values = {name: value + 0.05 * random.normal() for name, value in vars(MIDDLE).items()}
        shift = 0.0 if right else -0.12
        made.append(
            (right, PresenceScores(**values | {name: values[name] + shift for name in ("likeness", "appearance")}))
        )
    return made


def test_rule_weights_informative_scores_and_rejects_allowed_share():
    measured = random_scores(2000)
    rule = fit_rule(measured, "sam", "clip")
    assert min(rule.weights.values()) >= 0
    assert min(rule.weights["likeness"], rule.weights["appearance"]) > 10
    assert max(rule.weights["contrast"], rule.weights["cycle"], rule.weights["score"]) < 3
    probability = np.array([rule.probability(scores) for right, scores in measured if right])
    assert np.mean(probability < rule.found_from) == pytest.approx(DOUBTED, abs=0.005)
    assert np.mean(probability < rule.unsure_from) == pytest.approx(LOST, abs=0.005)
    # For two normal distributions of equal variance the optimal rule is known: weight = distance / variance.
    assert rule.weights["likeness"] == pytest.approx(0.12 / 0.05**2, rel=0.25)


def test_without_encoder_appearance_is_ignored():
    rule = fit_rule([(right, replace(scores, appearance=None)) for right, scores in random_scores(200)], "sam", None)
    assert "appearance" not in rule.weights
    assert rule.encoder is None


@pytest.mark.parametrize("right", [True, False])
def test_rule_needs_right_and_wrong_masks(right):
    with pytest.raises(UserError, match="of 10 masks are right"):
        fit_rule([(right, scores) for _, scores in random_scores(10)], "sam", "clip")


def test_each_object_is_searched_in_own_and_equally_many_other_photos(tmp_path):
    datasets.write_perseg(tmp_path, objects=OBJECTS, photos=3)
    first, second = halves(PerSeg(tmp_path), seed=0)
    assert len(first) == len(second) == 3
    references = []
    for half in (first, second):
        for reference, trials in half:
            references.append(reference.pixels.tobytes())
            groups = [(trial.group, trial.truth is None) for trial in trials]
            assert sorted(groups) == [("another object", True)] * 2 + [("the object", False)] * 2
    assert len(set(references)) == len(OBJECTS)
    again = [reference.pixels.tobytes() for half in halves(PerSeg(tmp_path), seed=0) for reference, _ in half]
    assert again == references


def test_too_few_objects_are_refused(tmp_path):
    datasets.write_perseg(tmp_path, objects=("cat", "dog", "mug"))
    with pytest.raises(UserError, match="has 3 objects"):
        halves(PerSeg(tmp_path), seed=0)


def test_written_rule_works_with_segment(tmp_path, capsys):
    for album in albums():
        for number, picture in enumerate(album.pictures[:3]):
            files.write_picture(picture.image, tmp_path / f"Images/{album.name}/{number:02}.jpg")
            files.write_mask(picture.mask(), tmp_path / f"Annotations/{album.name}/{number:02}.png")
    flags = ["--data", tmp_path, "--sam", SAM, "--encoder", CLIP, "--output", tmp_path / "rule", "--device", "cpu"]
    torch.manual_seed(0)
    assert main(["evaluate", "presence", *map(str, flags)]) == 0
    printed = capsys.readouterr().out
    assert "| the object |" in printed
    assert "| another object |" in printed
    rule = PresenceRule.load(tmp_path / "rule" / "presence.json")
    assert rule.encoder == str(CLIP.resolve())
    assert rule.made_on == "PerSeg"
    assert json.loads((tmp_path / "rule" / "results.json").read_text())
    assert Image.open(tmp_path / "rule" / "roc.png").size[0] > 300
    photos = tmp_path / "Images" / albums(1)[0].name
    words = ["--images", photos, "--reference", photos / "00.jpg", "--output", tmp_path / "out", "--device", "cpu"]
    words += ["--reference_mask", tmp_path / "Annotations" / albums(1)[0].name / "00.png", "--sam", SAM]
    words += ["--presence", tmp_path / "rule" / "presence.json"]
    assert main(["segment", *map(str, words)]) == 0
    assert "3 masks in" in capsys.readouterr().out
