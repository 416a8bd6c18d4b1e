"""Regions of pictures and their features, which are computed once for each content."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.features import CachedFeatures, Clip, Masked, region_of
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import ImageEncoder
from persam_dreambooth.torch_utils import TensorCache
from random_parts import draw_weights
from tests.scene import scene


def test_long_prompt_is_truncated_and_dino_is_not_clip(eyes):
    clip = Clip.from_pretrained(eyes / "clip", "cpu")
    assert clip.encode_texts(["word " * 100, "a"]).norm(dim=-1).tolist() == pytest.approx([1, 1])
    with pytest.raises(UserError, match="is not a CLIP"):
        Clip.from_pretrained(eyes / "dino", "cpu")


def test_subject_and_background_features_are_independent(eyes):
    clip = Clip.from_pretrained(eyes / "clip", "cpu")
    pixels, disc = scene(48, 60)
    noise = np.random.default_rng(5).integers(0, 256, pixels.shape, dtype=np.uint8)
    elsewhere, stranger = np.where(disc[..., None], pixels, noise), np.where(disc[..., None], noise, pixels)

    def seen(levels, region):
        return clip.encode([region_of(Image.fromarray(levels), disc, region)])

    assert torch.equal(seen(pixels, "inside"), seen(elsewhere, "inside"))
    assert torch.equal(seen(pixels, "outside"), seen(stranger, "outside"))
    for region, other in (("inside", stranger), ("outside", elsewhere), ("whole", stranger), ("whole", elsewhere)):
        assert not torch.equal(seen(pixels, region), seen(other, region))


def test_empty_regions_have_no_features():
    picture, empty = Image.new("RGB", (4, 3), (9, 9, 9)), np.zeros((3, 4), bool)
    assert region_of(picture, empty, "inside") is None
    assert region_of(picture, ~empty, "outside") is None
    assert np.array_equal(np.asarray(region_of(picture, empty, "outside")), np.asarray(picture))
    assert region_of(picture, ~empty, "inside") is not None


def test_clip_that_cannot_be_read_is_refused_by_its_flag(eyes, tmp_path):
    shutil.copytree(eyes / "clip", tmp_path / "clip")
    (tmp_path / "clip" / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"--clip_model .*clip has no tokenizer that can be read"):
        Clip.from_pretrained(tmp_path / "clip", "cpu")
    for path in (tmp_path / "clip").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match=r"--clip_model .*clip has no tokenizer that can be read"):
        Clip.from_pretrained(tmp_path / "clip", "cpu")
    with pytest.raises(UserError, match="--clip_model nowhere: "):
        Clip.from_pretrained("nowhere", "cpu")


def test_region_outside_is_filled_with_the_mean_of_the_background():
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[:, 0], pixels[:, 1:] = [(10, 0, 200), (20, 0, 100)], 77
    mask = np.array([[False, True, True], [False, True, True]])
    outside = np.asarray(region_of(Image.fromarray(pixels), mask, "outside"))
    assert outside[:, 0].tolist() == pixels[:, 0].tolist()
    assert (outside[:, 1:] == (15, 0, 150)).all()


class Counted:
    """An encoder's cached features, and how many pictures the encoder has seen."""

    def __init__(self, encoder, cache):
        self.seen = 0
        encoder.model.register_forward_hook(self._add)
        self.features = CachedFeatures(encoder, cache)

    def _add(self, *_):
        self.seen += 1


@pytest.fixture
def pictures(tmp_path):
    """Two pictures with masks, of which the second is empty."""
    made = []
    for number in range(2):
        pixels, disc = scene(40, 50, number)
        made.append(Masked(tmp_path / f"{number}.png", tmp_path / f"{number}-mask.png"))
        files.write_picture(Image.fromarray(pixels), made[-1].picture)
        files.write_mask(disc if number == 0 else np.zeros_like(disc), made[-1].mask)
    return made


def test_feature_is_that_of_the_region_and_none_without_pixels(eyes, pictures):
    encoder = ImageEncoder.from_pretrained(eyes / "dino", "cpu")
    features = CachedFeatures(encoder, TensorCache(None))
    first, second = features(pictures, "inside", "")
    picture, mask = files.read_photo(pictures[0].picture), files.read_mask(pictures[0].mask)
    assert torch.equal(first, encoder.encode([region_of(picture, mask, "inside")])[0])
    assert second is None and features(pictures, "inside", "")[1] is None  # from the cache too
    assert [feature.shape for feature in features(pictures, "whole", "")] == [(32,)] * 2


def test_feature_is_computed_once_for_each_content_and_encoder(eyes, pictures, tmp_path):
    cache = TensorCache(tmp_path / "cache")
    counted = Counted(ImageEncoder.from_pretrained(eyes / "dino", "cpu"), cache)

    def new(counted, region):
        before = counted.seen
        counted.features(pictures, region, "")
        return counted.seen - before

    assert [new(counted, region) for region in ("whole", "inside", "outside")] == [2, 1, 2]
    again = Counted(ImageEncoder.from_pretrained(eyes / "dino", "cpu"), cache)
    assert [new(again, region) for region in ("whole", "inside", "outside")] == [0, 0, 0]
    files.write_mask(~files.read_mask(pictures[0].mask), pictures[0].mask)
    assert [new(again, region) for region in ("whole", "inside", "outside")] == [0, 1, 1]
    shutil.copy(pictures[0].picture, pictures[1].picture)
    assert [new(again, region) for region in ("whole", "outside")] == [0, 1]
    known = ImageEncoder.from_pretrained(eyes / "dino", "cpu")
    other = ImageEncoder(draw_weights(known.model, seed=5), known.processor, "cpu")
    assert new(Counted(other, cache), "whole") == 1  # both pictures are the same now
