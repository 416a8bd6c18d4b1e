"""Drawing and segmenting: from the noise of each seed, only what is missing, and never into another run's folder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.models import Model
from persam_dreambooth.evaluation.generation.pictures import Drawing, draw_pictures, find_subject
from persam_dreambooth.evaluation.generation.prompts import Prompt
from persam_dreambooth.model_source import ModelSource
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.preprocessing.references import ReferenceFiles
from tests.scene import scene

SETTINGS = {"num_inference_steps": 1, "height": 32, "width": 32}
PROMPTS = [Prompt(text, text, None) for text in ("a dog", "a cat")]


@pytest.fixture
def model(generators):
    return Model("one", ModelSource(str(generators / "one")))


def levels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_identity_is_what_changes_a_picture_besides_prompt_and_seed():
    drawing = Drawing(PROMPTS, 2, 7, SETTINGS, "cpu", torch.bfloat16)
    own = drawing.identity(ModelSource("dog", base_model="base"))
    assert own == {"dtype": "bfloat16", "base_model": "base", "single_file_config": None, **SETTINGS}
    assert replace(drawing, seed=8, prompts=[], num_images=1).identity(ModelSource("dog", "base")) == own


def test_only_missing_pictures_are_drawn_each_from_its_own_seed(model, tmp_path):
    folder = tmp_path / "pictures"
    paths = draw_pictures(model, Drawing(PROMPTS[:1], 2, 7, SETTINGS, "cpu"), folder)
    assert {key: path.name for key, path in paths.items()} == {
        ("a dog", 7): "a-dog-7.png",
        ("a dog", 8): "a-dog-8.png",
    }
    first, second = (levels(path) for path in paths.values())
    assert np.abs(first - second).max() > 10
    kept = paths["a dog", 8].stat().st_mtime_ns
    # Eight is now the first seed, and a file that another prompt's picture has taken is drawn again.
    files.write_picture(Image.new("RGB", (32, 32)), folder / "a-dog-9.png")
    more = draw_pictures(model, Drawing(PROMPTS[:1], 2, 8, SETTINGS, "cpu"), folder)
    assert [path.name for path in more.values()] == ["a-dog-8.png", "a-dog-9.png"]
    assert more["a dog", 8].stat().st_mtime_ns == kept
    assert levels(more["a dog", 9]).max() > 10 and Image.open(more["a dog", 9]).text["seed"] == "9"
    np.testing.assert_allclose(second, levels(more["a dog", 8]), atol=1)


def test_folder_of_other_settings_is_refused_and_a_finished_one_needs_no_model(model, tmp_path):
    drawing, folder = Drawing(PROMPTS[:1], 1, 0, SETTINGS, "cpu"), tmp_path / "pictures"
    paths = draw_pictures(model, drawing, folder)
    assert json.loads((tmp_path / "drawing.json").read_text())["num_inference_steps"] == 1
    with pytest.raises(UserError, match=r"num_inference_steps differ"):
        draw_pictures(model, replace(drawing, settings=SETTINGS | {"num_inference_steps": 2}), folder)
    assert draw_pictures(model, replace(drawing, device="no such device"), folder) == paths


def test_subject_is_found_in_each_picture_in_the_order_of_prompts(models, tmp_path):
    pixels, disc = scene(40, 48)
    files.write_picture(Image.fromarray(pixels), tmp_path / "photo.png")
    files.write_mask(disc, tmp_path / "mask.png")
    paths = {}
    for number, (text, seed) in enumerate([("a dog", 1), ("a dog", 0), ("a cat", 1)]):
        paths[text, seed] = tmp_path / "pictures" / f"{'cab'[number]}.png"  # by name they would come in another order
        files.write_picture(Image.fromarray(scene(40, 48, number)[0]), paths[text, seed])
    reference = ReferenceFiles(tmp_path / "photo.png", mask=tmp_path / "mask.png")
    job = SegmentationJob(tmp_path / "pictures", (reference,), tmp_path / "found", str(models / "sam"), device="cpu")
    drawn = find_subject(job, PROMPTS, paths)
    assert [(own.prompt, own.seed, own.files.picture) for own in drawn] == [
        (PROMPTS[0], 1, tmp_path / "pictures" / "c.png"),
        (PROMPTS[0], 0, tmp_path / "pictures" / "a.png"),
        (PROMPTS[1], 1, tmp_path / "pictures" / "b.png"),
    ]
    assert [own.files.mask.name for own in drawn] == ["c.png", "a.png", "b.png"]
    assert all(files.read_mask(own.files.mask).shape == (40, 48) and own.presence is None for own in drawn)
    paths["a cat", 1].write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"b\.png cannot be decoded.*; delete it and run again"):
        find_subject(job, PROMPTS, paths)
