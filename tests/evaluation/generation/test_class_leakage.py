"""Class leakage: zero for the base model and its copy, measured seed by seed, equal to the features' own cosine."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.evaluation.generation.features import region_of
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import ImageEncoder
from tests.evaluation.generation.conftest import evaluate

SMALL = {"num_images": 1, "class_images": 2}


@pytest.fixture
def trained(generators, tmp_path):
    """Folders of two "trained" models whose config names the model `one`: an exact copy of it, and another."""
    folders = {}
    for name in ("copy", "other"):
        folders[name] = tmp_path / f"trained-{name}"
        shutil.copytree(generators / name, folders[name])
        (folders[name] / "training_config.yaml").write_text(f"pretrained_model_name_or_path: {generators / 'one'}\n")
    return folders


@pytest.fixture
def options(options, tmp_path):
    """Flags with a single prompt."""
    (tmp_path / "prompts.txt").write_text("a {unique_token} {class_token} [in the snow]")
    return options | {"prompts": [str(tmp_path / "prompts.txt")]}


def read(options):
    return json.loads((Path(options["output"][0]) / "metrics.json").read_text())


def test_copy_of_the_base_leaks_nothing_and_another_what_its_features_say(options, trained, generators, eyes, subject):
    assert evaluate(options, **SMALL, model=[f"{name}={folder}" for name, folder in trained.items()]) == 0
    stored, output = read(options), Path(options["output"][0])
    copy, other = (stored["class_pictures"][name] for name in ("copy", "other"))
    assert [row["class_likeness"] - row["of_base_model"] for row in copy] == pytest.approx([0, 0], abs=1e-5)
    assert [row["of_base_model"] for row in other] == [row["of_base_model"] for row in copy]
    leakage = [row["class_likeness"] - row["of_base_model"] for row in other]
    assert stored["models"]["other"]["class_leakage"]["mean"] == pytest.approx(np.mean(leakage))
    assert stored["models"]["other"]["class_leakage"]["values"] == 2 and np.abs(leakage).max() > 1e-4
    encoder = ImageEncoder.from_pretrained(eyes / "dino", "cpu")

    def feature(picture, mask):
        return encoder.encode([region_of(files.read_photo(picture), files.read_mask(mask), "inside")])[0]

    photos = [feature(subject / "photos" / f"{n}.png", subject / "masks" / f"{n}.png") for n in range(3)]
    for row in other:
        drawn = output / row["file"]
        assert Image.open(drawn).text["prompt"] == "a disc" and drawn.parent.parent.name == "class"
        found = feature(drawn, drawn.parents[1] / "found" / "masks" / drawn.name)
        assert row["class_likeness"] == pytest.approx(np.mean([float(found @ photo) for photo in photos]), abs=1e-5)
    assert [row["seed"] for row in other] == [0, 1]
    page = (output / "report.html").read_text()
    assert "Class leakage" in page and "a disc (without the unique token)" in page


def test_base_among_the_models_is_drawn_once_and_is_its_own(options, trained, generators):
    assert evaluate(options, **SMALL, model=[f"base={generators / 'one'}", f"other={trained['other']}"]) == 0
    stored, models = read(options), Path(options["output"][0]) / "models"
    assert sorted(folder.name for folder in models.iterdir()) == ["base", "other"]
    assert stored["models"]["base"]["class_leakage"]["mean"] == 0
    assert [row["of_base_model"] for row in stored["class_pictures"]["other"]] == [
        row["class_likeness"] for row in stored["class_pictures"]["base"]
    ]


@pytest.mark.parametrize("config", [None, "pretrained_model_name_or_path: ./moved-away"])
def test_without_a_known_base_only_the_likeness_is_measured(config, options, trained):
    (trained["copy"] / "training_config.yaml").unlink()
    if config:
        (trained["copy"] / "training_config.yaml").write_text(config)
    assert evaluate(options, **SMALL, model=f"one={trained['copy']}") == 0
    of_one = read(options)["models"]["one"]
    assert "class_likeness" in of_one and "class_leakage" not in of_one


@pytest.mark.parametrize("changed", [{"class_images": 0}, {"prompts": "{own}", "class_token": None}])
def test_without_class_pictures_nothing_is_drawn_and_the_report_says_so(changed, options, tmp_path, capsys):
    (tmp_path / "own.txt").write_text("a disc on grass")
    changed = {
        name: value.format(own=tmp_path / "own.txt") if value == "{own}" else value for name, value in changed.items()
    }
    assert evaluate(options, num_images=1, **changed) == 0
    assert "Class leakage is not measured" in capsys.readouterr().out
    assert not any("class" in name for name in read(options)["models"]["one"])
    assert not list(Path(options["output"][0]).glob("models/*/class"))
