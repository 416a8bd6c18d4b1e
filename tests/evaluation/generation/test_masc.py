"""MaSC: its definition by hand, its invariants on a small SigLIP 2, with and without a fixed size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from persam_dreambooth.evaluation.generation.features import Masked
from persam_dreambooth.evaluation.generation.masc import Masc, Patches, concept_preservation
from persam_dreambooth.photos import files
from persam_dreambooth.torch_utils import TensorCache
from random_models import draw_weights
from tests.evaluation.generation.conftest import TOWER, evaluate

TEXT = {**TOWER, "vocab_size": 64}


@pytest.fixture(scope="module", params=["naflex", "fixed"])
def siglip(request, tmp_path_factory):
    """A folder with a small SigLIP 2 of any size, or one of 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "naflex":
        vision = {**TOWER, "patch_size": 8, "num_patches": 16}
        model = Siglip2Model(Siglip2Config(text_config=TEXT, vision_config=vision))
        processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    else:
        vision = {**TOWER, "patch_size": 8, "image_size": 32}
        model = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=vision))
        processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    draw_weights(model, seed=1).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def masc(siglip, tmp_path):
    return Masc.from_pretrained(str(siglip), "cpu", TensorCache(tmp_path / "features"))


def photo_of(subject, number):
    return Masked(subject / "photos" / f"{number}.png", subject / "masks" / f"{number}.png")


def test_mean_of_highest_cosines_of_the_subjects_patches():
    photo = Patches(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]]), 2, 2)
    picture = Patches(torch.tensor([[0.0, 1.0], [0.8, 0.6]]), 1, 2)
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True  # the first and the third patch
    assert concept_preservation(photo, mask, picture) == pytest.approx((0.8 + 0.96) / 2)
    assert concept_preservation(photo, np.zeros((8, 8), bool), picture) is None


def test_photo_preserves_itself_and_another_picture_less(masc, subject):
    photo = photo_of(subject, 0)
    assert masc([photo], photo.picture) == pytest.approx(1, abs=1e-5)
    assert masc([photo], photo_of(subject, 1).picture) < 1 - 1e-4


def test_patches_are_those_of_the_tower(masc, siglip, subject):
    """A photo of 48 x 56 pixels, scaled to at most 1024 patches of 8 pixels, or to 32 x 32 pixels."""
    patches = masc.patches(photo_of(subject, 1).picture)
    assert len(patches.features) == patches.rows * patches.columns
    if siglip.name.startswith("naflex"):
        assert 900 < len(patches.features) <= 1024 and patches.columns > patches.rows
    else:
        assert (patches.rows, patches.columns) == (4, 4)
    torch.testing.assert_close(patches.features.norm(dim=1), torch.ones(len(patches.features)))


def test_background_of_the_photo_does_not_count_as_subject(masc, subject, tmp_path):
    """With the subject's patches alone in the picture, they are all found; the photo's background is not asked for."""
    photo = photo_of(subject, 0)
    patches = masc.patches(photo.picture)
    mask = files.read_mask(photo.mask)
    covered = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None].float(), (patches.rows, patches.columns), mode="bilinear"
    ).flatten()
    inside = patches.features[covered > 0.5]
    assert 0 < len(inside) < len(patches.features)
    assert concept_preservation(patches, mask, Patches(inside, 1, len(inside))) == pytest.approx(1, abs=1e-5)
    assert concept_preservation(patches, ~mask, Patches(inside, 1, len(inside))) < 1 - 1e-4


def test_report_has_masc_of_pictures_and_photos(options, siglip, subject, tmp_path):
    more = {"num_images": 1, "class_images": 0, "model": options["model"][0], "masc_model": siglip}
    assert evaluate(options, **more) == 0
    output = Path(options["output"][0])
    stored = json.loads((output / "metrics.json").read_text())
    row = stored["prompts"][0]["pictures"][0]
    masc = Masc.from_pretrained(str(siglip), "cpu", TensorCache(tmp_path / "other"))
    photos = [photo_of(subject, number) for number in range(3)]
    assert row["masc"] == pytest.approx(masc(photos, output / row["file"]), abs=1e-5)
    assert stored["photos"]["masc"] == pytest.approx(
        np.mean([masc([p for p in photos if p is not photo], photo.picture) for photo in photos]), abs=1e-5
    )


def test_another_kind_of_model_is_refused(options, eyes, capsys):
    assert evaluate(options, masc_model=eyes / "dino") == 2
    assert "--masc_model" in capsys.readouterr().err and not Path(options["output"][0]).exists()


def test_values_are_cached_by_content(masc, subject, tmp_path, monkeypatch):
    photo, picture = photo_of(subject, 0), tmp_path / "picture.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    value = masc([photo], picture)
    monkeypatch.setattr(masc, "patches", None)
    assert masc([photo], picture) == value
    Image.new("RGB", (32, 32), "blue").save(picture)
    with pytest.raises(TypeError):
        masc([photo], picture)
