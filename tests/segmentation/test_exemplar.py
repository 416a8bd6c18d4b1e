"""SAM 3's exemplar: reference and photo lie on the canvas as said, and the masks are the model's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Reference
from persam_dreambooth.segmentation.exemplar import Canvas, Exemplar
from tests.scene import iou, scene
from tests.segmentation.random_locators import LOCATORS, save

SIDES = st.tuples(st.integers(2, 90), st.integers(2, 90))


@pytest.fixture(scope="module")
def exemplar(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3")
    save("sam3", folder)
    return Exemplar.from_pretrained(folder, "cpu")


def matches(canvas, threshold=0.3):
    """The model's own answer to the canvas, asked as its documentation does."""
    model, processor = LOCATORS["sam3"]()
    inputs = processor(
        images=Image.fromarray(canvas.pixels),
        input_boxes=[[canvas.box.tolist()]],
        input_boxes_labels=[[1]],
        return_tensors="pt",
    )
    sizes = inputs.pop("original_sizes").tolist()
    with torch.no_grad():
        output = model(**inputs)
    return processor.post_process_instance_segmentation(output, threshold, target_sizes=sizes)[0]


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.data())
def test_photo_is_unchanged_and_the_box_is_around_the_subject(own, given_photo, data):
    """The subject is white, everything else of the reference is black, and the photo is grey."""
    height, width = own
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    mask = np.zeros(own, dtype=bool)
    mask[top:bottom, left:right] = True
    if mask.all():
        mask[0, 0] = False
    photo = np.full((*given_photo, 3), 90, np.uint8)
    photo[0, 0] = 7
    canvas = Canvas.of(Reference(mask[..., None].repeat(3, 2) * np.uint8(255), mask), photo)
    np.testing.assert_array_equal(canvas.pixels[canvas.top :, canvas.left :], photo)
    assert (canvas.top == 0) != (canvas.left == 0)
    part = canvas.pixels[: canvas.top or None, : canvas.left or None]
    assert abs(part.shape[0] * width - part.shape[1] * height) <= max(own)  # its own aspect ratio, to half a pixel
    scale = np.array([part.shape[1] / width, part.shape[0] / height])
    ys, xs = np.nonzero(mask)
    edges = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) * np.tile(scale, 2)
    np.testing.assert_allclose(canvas.box, edges)


def test_the_squarer_of_both_canvases_is_taken():
    wide, tall = scene(40, 120)[0], scene(120, 40)[0]
    assert Canvas.of(Reference(*scene(40, 120)), wide).pixels.shape == (80, 120, 3)
    assert Canvas.of(Reference(*scene(120, 40)), tall).pixels.shape == (120, 80, 3)


@pytest.mark.parametrize("size", [(60, 60), (40, 90), (90, 40)])
def test_mask_is_the_models_best_one_on_the_photo(exemplar, size):
    photo = scene(*size, seed=1)[0]
    canvas = Canvas.of(Reference(*scene(90, 150)), photo)
    theirs = matches(canvas)
    on_photo = theirs["masks"][:, canvas.top :, canvas.left :].bool()
    share = on_photo.sum((1, 2)) / theirs["masks"].bool().sum((1, 2)).clamp(min=1)
    scores = theirs["scores"].masked_fill(share < 0.5, -1)
    found = exemplar.find(photo, [Reference(*scene(90, 150))])
    assert found.shape == size
    expected = on_photo[scores.argmax()] if len(scores) and scores.max() > 0 else torch.zeros(size, dtype=torch.bool)
    np.testing.assert_array_equal(found, expected.numpy())


def test_of_several_references_the_best_match_counts(exemplar):
    photo = scene(60, 60, seed=1)[0]
    references = [Reference(*scene(64, 64, seed=seed)) for seed in range(4)]
    alone = [exemplar.find(photo, [reference]) for reference in references]
    both = exemplar.find(photo, references)
    assert any((both == mask).all() for mask in alone)
    assert len({mask.tobytes() for mask in alone}) > 1, "the references make no difference"
    np.testing.assert_array_equal(both, exemplar.find(photo, references[::-1]))


def test_matches_below_the_threshold_do_not_count(exemplar, monkeypatch):
    photo, references = scene(60, 60, seed=1)[0], [Reference(*scene(90, 150))]
    canvas = Canvas.of(references[0], photo)
    assert exemplar.find(photo, references).any()
    monkeypatch.setattr("persam_dreambooth.segmentation.exemplar.THRESHOLD", float(matches(canvas)["scores"].max()))
    assert not exemplar.find(photo, references).any()


def test_large_photos_are_shrunk_and_their_masks_enlarged(exemplar, monkeypatch):
    monkeypatch.setattr("persam_dreambooth.segmentation.exemplar.LONGEST", 60)
    overlaps = []
    for seed in range(4):
        photo, references = scene(120, 120, seed)[0], [Reference(*scene(90, 150))]
        shrunk = np.asarray(Image.fromarray(photo).resize((60, 60), Image.Resampling.BICUBIC))
        small, found = exemplar.find(shrunk, references), exemplar.find(photo, references)
        assert found.shape == (120, 120) and small.shape == (60, 60) and found.any() == small.any()
        overlaps += [iou(found, small.repeat(2, 0).repeat(2, 1))] if found.any() else []
    assert overlaps and min(overlaps) > 0.9


def test_kinds_of_models_that_have_no_exemplars_are_refused(tmp_path):
    save("owlv2", tmp_path)
    with pytest.raises(UserError, match="is not a SAM 3"):
        Exemplar.from_pretrained(tmp_path, "cpu")
