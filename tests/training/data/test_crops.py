"""Properties of crops and buckets: within the photo, subject kept, photo and mask aligned, one shape per batch."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import SequentialSampler

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import DataConfig
from persam_dreambooth.training.data.crops import (
    BucketBatchSampler,
    bucket_sizes,
    cover,
    cover_mask,
    cut_mask,
    cut_photo,
    draw_crop,
    nearest_bucket,
)

SIDES = st.integers(8, 90)
SHAPES = st.tuples(SIDES, SIDES)
CROPS = st.tuples(st.sampled_from([8, 16, 24, 32]), st.sampled_from([8, 16, 24, 32]))


def config(**changes):
    return DataConfig(instance_data_dir="photos", instance_prompt="a sks dog", resolution=32, **changes)


@settings(deadline=None)
@given(photo=SHAPES, size=CROPS, center=st.booleans(), flip=st.booleans(), seed=st.integers(0, 99), data=st.data())
def test_crop_is_within_photo_and_keeps_subject(photo, size, center, flip, seed, data):
    top, left = (data.draw(st.integers(0, side - 1)) for side in photo)
    bottom, right = (data.draw(st.integers(low + 1, side)) for low, side in zip((top, left), photo, strict=True))
    mask = torch.zeros(photo, dtype=torch.uint8)
    mask[top:bottom, left:right] = 255
    full = cover_mask(mask, size)
    assume(full.any())  # a tiny subject may vanish when resized
    torch.manual_seed(seed)
    crop = draw_crop(photo, size, config(center_crop=center, random_flip=flip), full)
    assert all(whole >= part for whole, part in zip(crop.resized, size, strict=True))
    assert 0 <= crop.top <= crop.resized[0] - size[0] and 0 <= crop.left <= crop.resized[1] - size[1]
    assert full.shape == crop.resized
    cut = cut_mask(full, crop)[0]
    rows, columns = full.any(dim=1).sum(), full.any(dim=0).sum()
    assert cut.sum() == min(rows, size[0]) * min(columns, size[1])
    same = torch.manual_seed(seed) and draw_crop(photo, size, config(center_crop=center, random_flip=flip))
    if cut_mask(full, same).sum() == cut.sum() == full.sum():
        assert same == crop  # it is moved only if it would lose something


@settings(deadline=None, max_examples=50)
@given(photo=SHAPES, size=CROPS, seed=st.integers(0, 99))
def test_photo_and_mask_are_cropped_alike(photo, size, seed):
    random = np.random.default_rng(seed)
    drawn = np.kron(random.random(photo) < 0.5, np.ones((4, 4), dtype=bool))
    resized = cover_mask(torch.from_numpy(drawn).to(torch.uint8) * 255, size)
    torch.manual_seed(seed)
    crop = draw_crop(drawn.shape, size, config(random_flip=True), resized)
    picture = Image.fromarray(drawn * np.uint8(255)).convert("RGB")
    pixels, mask = cut_photo(picture, crop), cut_mask(resized, crop)
    assert pixels.shape == (3, *size) and mask.shape == (1, *size)
    if crop.resized[0] >= drawn.shape[0]:  # downscaling smooths blobs away
        assert ((pixels[:1] > 0) == (mask > 0)).float().mean() > 0.85


@settings(deadline=None)
@given(photo=SHAPES, size=CROPS)
def test_photo_is_resized_just_enough_to_cover_crop(photo, size):
    resized = cover(photo, size)
    assert resized[0] == size[0] or resized[1] == size[1]
    scale = max(part / whole for part, whole in zip(size, photo, strict=True))
    assert all(abs(new - whole * scale) < 1.001 for new, whole in zip(resized, photo, strict=True))


def test_bucket_shapes_do_not_exceed_area():
    sizes = bucket_sizes(_auto_shapes(512), 8)
    assert (512, 512) in sizes and (768, 320) in sizes and (320, 768) in sizes
    assert all(height % 64 == width % 64 == 0 and height * width <= 512 * 512 for height, width in sizes)
    assert all(256 <= side <= 1024 for size in sizes for side in size)
    assert nearest_bucket((3000, 4000), sizes) == (448, 576)
    assert nearest_bucket((700, 700), sizes) == (512, 512)


def _auto_shapes(side):
    return DataConfig(instance_data_dir="a", instance_prompt="b", resolution=side, aspect_ratio_buckets="auto")


@pytest.mark.parametrize("words", ["x", "32", "32,32;16", "32,20", "0,32", "32,32,32"])
def test_invalid_shapes_are_refused_in_one_line(words):
    with pytest.raises(UserError, match="--aspect_ratio_buckets") as error:
        bucket_sizes(config(aspect_ratio_buckets=words), 8)
    assert len(str(error.value).splitlines()) == 1
    assert bucket_sizes(config(aspect_ratio_buckets="32,16;16,32"), 8) == [(32, 16), (16, 32)]


@settings(deadline=None)
@given(buckets=st.lists(st.integers(0, 3), min_size=1, max_size=12), rounds=st.integers(1, 3), size=st.integers(1, 5))
def test_batches_are_full_have_one_shape_and_cover_everything(buckets, rounds, size):
    items = range(rounds * len(buckets))
    sampler = BucketBatchSampler(SequentialSampler(items), size, buckets)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(len(batch) == size for batch in batches)
    assert all(len({buckets[index % len(buckets)] for index in batch}) == 1 for batch in batches)
    seen = Counter(index for batch in batches for index in batch)
    assert set(seen) == set(items)
    assert sum(seen.values()) - len(items) < size * len(set(buckets))  # at most one batch per shape is padded


def test_mask_is_resized_about_its_centre_like_its_photo():
    """The middle one of 5 x 5 pixels gives the crop's pixel; the mask of a mirrored photo is the mirrored mask."""
    mask = torch.zeros(40, 40, dtype=torch.uint8)
    mask[13:27, 12:28] = 1
    resized = cover_mask(mask, (8, 8))
    assert torch.equal(resized, mask[2::5, 2::5])
    assert torch.equal(cover_mask(mask.flip(0, 1), (8, 8)), resized.flip(0, 1))
