"""Cascaded post-refinement: the prompts of each pass, what is recorded, and where it ends."""

import numpy as np
import pytest
import torch

from persam_dreambooth.segmentation import Prompts
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.refinement import as_logits, cascade, recorded, refine
from tests.scene import scene

SIZE = (90, 150)
LOW = 32  # side of the small SAM's logits


@pytest.fixture
def photo(persam):
    return persam.encode([scene(*SIZE, seed=1)[0]])[0]


@pytest.fixture
def initial(photo):
    return Prompts(photo.frame.to_model(torch.tensor([[90, 36], [5, 5]])), torch.tensor([1, 0]))


def disc(photo):
    """Return logits of the scene's disc."""
    return as_logits(scene(*SIZE)[1], photo, 4.0, "bilinear")


def test_pass_is_prompted_with_points_mask_and_its_tight_box(backbone, photo, initial):
    previous = disc(photo)
    box = bounding_box(photo.frame.to_original(previous[None])[0] > 0)
    for with_box, given in ((False, None), (True, photo.frame.box_to_model(box))):
        logits, predicted_iou, used = refine(backbone, photo, initial, previous, with_box)
        prompts = Prompts(initial.points, initial.labels, given, previous)
        expected, scores = backbone.decode(photo.embedding, prompts, multimask=True)
        assert torch.equal(logits, expected) and torch.equal(predicted_iou, scores)
        assert used is None if given is None else torch.equal(used, box)
    # The box is in the photo's pixels: the disc of `scene` lies around (90, 36) with a radius of 31.5.
    assert (box - torch.tensor([59, 5, 121, 67])).abs().max() <= 4


def test_empty_mask_has_no_box_and_ends_the_cascade(backbone, photo, initial):
    nothing = torch.full((LOW, LOW), -1.0)
    assert refine(backbone, photo, initial, nothing, with_box=True) is None
    assert refine(backbone, photo, initial, nothing, with_box=False) is not None
    first = recorded(nothing[None], torch.ones(1), None)
    assert cascade(backbone, photo, initial, first, (True, False)) == [first]
    assert cascade(backbone, photo, initial, first, ()) == [first]


def test_each_pass_refines_the_mask_of_the_one_before(backbone, photo, initial):
    first = recorded(disc(photo)[None], torch.ones(1), None)
    passes = cascade(backbone, photo, initial, first, (False, True))
    assert passes[0] is first and len(passes) == 3
    for before, after, with_box in zip(passes, passes[1:], (False, True), strict=False):
        logits, predicted_iou, box = refine(backbone, photo, initial, torch.from_numpy(before.kept), with_box)
        np.testing.assert_array_equal(after.logits, logits)
        np.testing.assert_array_equal(after.predicted_iou, predicted_iou)
        assert (after.box is None) == (box is None) == (not with_box)


def test_best_mask_or_the_weighted_sum_is_kept():
    logits = torch.arange(12.0).view(3, 2, 2)
    predicted_iou, box = torch.tensor([0.2, 0.9, 0.5]), torch.tensor([1, 2, 3, 4])
    best, mixed = (
        recorded(logits, predicted_iou, box),
        recorded(logits, predicted_iou, None, torch.tensor([2.0, 0, -1])),
    )
    assert best.index == mixed.index == 1
    np.testing.assert_array_equal(best.kept, logits[1])
    np.testing.assert_array_equal(mixed.kept, 2 * logits[0] - logits[2])
    assert best.box.tolist() == [1, 2, 3, 4] and mixed.box is None
    half = recorded(logits.bfloat16(), predicted_iou, None)
    assert (half.logits.dtype, half.kept.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("mode", ["bilinear", "area"])
def test_mask_becomes_logits_of_its_sign_with_negative_padding(photo, mode):
    mask = np.zeros(SIZE, bool)
    mask[:, 75:] = True  # 150 pixels on 128: the right half of 32 columns, 19 of 32 rows
    logits = as_logits(mask, photo, 8.0, mode)
    assert logits.shape == (LOW, LOW) and logits.dtype == torch.float32
    assert (logits[:19, 17:] == 8).all() and (logits[:19, :15] == -8).all() and (logits[20:] == -8).all()
    again = photo.frame.to_original(logits[None])[0].numpy() > 0
    assert (again != mask).mean() < 0.03
