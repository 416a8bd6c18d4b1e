"""Loading of a method by its settings: which models it needs, and what they are loaded with."""

import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import (
    INSID3,
    CropSearch,
    Insid3Method,
    Insid3Sam,
    Method,
    PerSAM,
    SegGPT,
    SegGptMethod,
    load_segmenter,
)
from tests.scene import scene
from tests.segmentation.test_features import WIDTH, dinov3
from tests.segmentation.test_seggpt import random_seggpt


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """The folder of a small DINOv3 with patches of 16 pixels."""
    folder = tmp_path_factory.mktemp("models") / "dino"
    dinov3().save_pretrained(folder)
    return str(folder)


def test_persam_gets_its_sam_method_and_features(models, dino, tmp_path):
    sam, method = str(models / "sam"), Method.persam_f()
    plain = load_segmenter(method, sam, device="cpu", dtype=torch.bfloat16, sam_size=192)
    assert type(plain) is PerSAM and plain.method == method and plain.features is None
    assert (plain.name, plain.backbone.image_size, plain.backbone.dtype) == (sam, 192, torch.bfloat16)
    other = load_segmenter(Method(), sam, dino, 96, "cpu", cache=tmp_path / "cache")
    (photo,) = other.encode([scene(40, 60)[0]])
    assert photo.embedding.shape == (32, 8, 8) and photo.other.embedding.shape == (WIDTH, 6, 6)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_insid3_needs_no_sam_and_with_sam_gets_both(models, dino, tmp_path):
    method = Insid3Method(tau=0.5)
    alone = load_segmenter(method, "no/such-sam", dino, 128, "cpu", cache=tmp_path)
    assert type(alone) is INSID3 and alone.method == method and alone.backbone is None
    both = load_segmenter(Insid3Method(with_sam=True), str(models / "sam"), dino, 128, "cpu", sam_size=192)
    assert type(both) is Insid3Sam
    assert (both.backbone.image_size, both.checksum) == (192, alone.checksum)
    assert alone.encode([scene(40, 60)[0]])[0].embedding.shape == (WIDTH, 8, 8)
    assert len(list(tmp_path.iterdir())) == 1


def test_seggpt_is_the_methods_model_and_takes_no_encoder(tmp_path):
    random_seggpt().save_pretrained(tmp_path)
    method = SegGptMethod(str(tmp_path), "spatial")
    seggpt = load_segmenter(method, "no/such-sam", device="cpu")
    assert type(seggpt) is SegGPT and seggpt.method == method and seggpt.name == str(tmp_path)
    for more in ({"features": "dino"}, {"features_size": 96}, {"cache": tmp_path}):
        with pytest.raises(UserError, match="SegGPT has no DINO and nothing to cache"):
            load_segmenter(method, "no/such-sam", **more)


def test_crops_are_searched_if_asked_and_checked_before_anything_is_loaded(models, dino):
    search = load_segmenter(Method(), str(models / "sam"), device="cpu", crop_n_layers=1)
    assert type(search) is CropSearch and len(search.encode([scene(64, 64)[0]])[0].crops) == 4
    with pytest.raises(UserError, match="choose 1 to 3"):
        load_segmenter(Method(), "no/such-sam", crop_n_layers=4)


@pytest.mark.parametrize("method", [Insid3Method(), SegGptMethod("no/such-model")])
def test_size_of_a_sam_that_the_method_lacks_is_refused(method):
    with pytest.raises(UserError, match=r"^sam_size 96 is for methods with a SAM; leave it out$"):
        load_segmenter(method, "no/such-sam", sam_size=96)


def test_size_of_features_that_nobody_gave_is_refused():
    with pytest.raises(UserError, match=r"^features_size 96 is a DINO's; give features too, or leave it out$"):
        load_segmenter(Method(), "no/such-sam", features_size=96)
