"""Guards that SegGPT's masks are those of its class, in the photo's frame, and that all references are used."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegGptConfig, SegGptForImageSegmentation, SegGptImageProcessor

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Reference
from persam_dreambooth.segmentation.seggpt import SegGpt
from random_models import draw_weights, random_sam
from tests.scene import scene

SIZES = [(90, 150), (70, 40)]


def random_seggpt(seed=0):
    config = SegGptConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=(128, 64),
        pretrain_image_size=32,
        decoder_hidden_size=16,
        merge_index=1,
        intermediate_hidden_state_indices=(1, 2, 3),
    )
    return draw_weights(SegGptForImageSegmentation(config), seed, gain=1.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    saved = tmp_path_factory.mktemp("models") / "seggpt"
    random_seggpt().save_pretrained(saved)
    return saved


@pytest.fixture
def seggpt(folder):
    return SegGpt.from_pretrained(folder, device="cpu")


@pytest.fixture
def reference():
    return Reference(*scene(60, 100))


def test_masks_are_in_photo_frames_singly_and_in_batches(seggpt, reference):
    photos = [scene(*size, seed)[0] for seed, size in enumerate(SIZES)]
    masks = seggpt.segment(photos, reference)
    assert [mask.shape for mask in masks] == SIZES
    assert all(mask.dtype == bool and mask.any() and not mask.all() for mask in masks)
    assert all(
        np.array_equal(seggpt.segment([photo], [reference])[0], mask)
        for photo, mask in zip(photos, masks, strict=True)
    )
    assert np.array_equal(seggpt.segment([Image.fromarray(photos[0])], reference)[0], masks[0])
    assert seggpt.segment([], reference) == []


@torch.no_grad()
def test_mask_matches_model_and_processor(seggpt, reference):
    photo = scene(*SIZES[0])[0]
    model, own = random_seggpt(), SegGptImageProcessor(size={"height": 64, "width": 64})
    inputs = own(
        images=Image.fromarray(photo),
        prompt_images=Image.fromarray(reference.pixels),
        prompt_masks=reference.foreground.astype(np.uint8),
        num_labels=1,
        return_tensors="pt",
    )
    expected = own.post_process_semantic_segmentation(model(**inputs), [photo.shape[:2]], num_labels=1)[0] == 1
    assert np.array_equal(seggpt.segment([photo], reference)[0], expected.numpy())


def test_reference_mask_and_second_reference_all_matter(seggpt, reference):
    photo, pixels = scene(*SIZES[0])[0], reference.pixels
    moved = np.roll(reference.foreground, 30, axis=1)
    masks = [
        seggpt.segment([photo], references)[0]
        for references in (
            [reference],
            [Reference(pixels, moved)],
            [Reference(255 - pixels, reference.foreground)],
            [reference, Reference(pixels, moved)],
            [reference, Reference(pixels, moved), Reference(*scene(50, 50, seed=3))],
        )
    ]
    assert not any(np.array_equal(a, b) for number, a in enumerate(masks) for b in masks[:number])


def test_repeated_reference_changes_nothing(seggpt, reference):
    photo = scene(*SIZES[0])[0]
    once, twice = (seggpt.segment([photo], [reference] * count)[0] for count in (1, 2))
    assert (once == twice).mean() > 0.999


def test_missing_reference_and_foreign_model_folder_are_refused(seggpt, tmp_path):
    with pytest.raises(UserError, match="no reference"):
        seggpt.segment([scene(*SIZES[0])[0]], [])
    random_sam().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is not a SegGPT"):
        SegGpt.from_pretrained(tmp_path)
