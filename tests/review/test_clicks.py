"""Clicks, boxes and strokes: tinyworld's trained SAM turns them into masks and changes nothing elsewhere."""

import numpy as np
import pytest

from albums import albums, save_album
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.review.clicks import Stroke, painted
from tests.review.albums import middle
from tests.scene import iou


@pytest.fixture(scope="module")
def dog(tmp_path_factory):
    """A photo of 128 x 128 pixels, and its subject's true mask."""
    photos, masks = save_album(albums(1, photos=1)[0], tmp_path_factory.mktemp("dog"))
    return photos / "00.png", files.read_mask(masks / "00.png")


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return (float(columns.min()), float(rows.min())), (float(columns.max()) + 1, float(rows.max()) + 1)


def test_click_box_and_brush_stroke_each_find_subject(clicker, dog):
    photo, true = dog
    body = middle(true)
    ways = {
        "point": Stroke("point", (body,)),
        "box": Stroke("box", box_of(true)),
        "brush": Stroke("brush", (body, (body[0] + 6, body[1])), radius=2),
    }
    for way, stroke in ways.items():
        assert iou(clicker.first(photo, [stroke]), true) > 0.8, way


def test_box_that_leaves_photo_is_clipped(clicker, dog):
    photo, true = dog
    (left, top), (right, bottom) = box_of(true)
    inside = clicker.first(photo, [Stroke("box", ((0.0, 0.0), (128.0, 128.0)))])
    outside = clicker.first(photo, [Stroke("box", ((-50.0, -9.0), (500.0, 130.0)))])
    np.testing.assert_array_equal(inside, outside)
    backwards = clicker.first(photo, [Stroke("box", ((right, bottom), (left, top)))])
    np.testing.assert_array_equal(backwards, clicker.first(photo, [Stroke("box", ((left, top), (right, bottom)))]))


def test_click_adds_missing_part(clicker, dog):
    photo, true = dog
    missing = true.copy()
    missing[:, 70:] = False
    lost = true & ~missing
    mask, score = clicker.again(photo, missing, [(*middle(missing), 1), (*middle(lost), 1)])
    assert iou(mask, true) > iou(missing, true) + 0.1
    assert 0 < score <= 1.1


def test_click_removes_excess_only_around_it(clicker, dog):
    photo, true = dog
    spilt = true.copy()
    spilt[4:30, 4:40] = True
    stroke = np.zeros_like(true)
    stroke[100:120, 2:12] = True  # painted elsewhere by hand
    before = spilt | stroke
    mask, _ = clicker.again(photo, before, [(*middle(true), 1), (20.0, 15.0, 0)])
    assert not mask[15, 20]
    assert mask[stroke].all()
    assert iou(mask & ~stroke, true) > iou(spilt, true) + 0.1


@pytest.mark.parametrize(("click", "reason"), [((500.0, 3.0, 1), "outside the photo"), (None, "already in the mask")])
def test_click_without_effect_is_refused(clicker, dog, click, reason):
    photo, true = dog
    with pytest.raises(UserError, match=reason):
        clicker.again(photo, true, [click or (*middle(true), 1)])


def test_negative_clicks_alone_are_refused(clicker, dog):
    with pytest.raises(UserError, match="nothing marks the subject"):
        clicker.first(dog[0], [Stroke("point", ((5.0, 5.0),), label=0)])


def test_brush_and_eraser_change_only_pixels_under_them():
    mask = np.zeros((40, 60), bool)
    brushed = painted(mask, [Stroke("brush", ((10.5, 10.5), (40.5, 10.5)), radius=4)])
    assert brushed[10, 7:44].all() and not brushed[16:].any() and not brushed[:, 50:].any()
    erased = painted(brushed, [Stroke("eraser", ((10.5, 10.5),), radius=3)])
    assert not erased[10, 8:13].any() and erased[10, 15:44].all()
    rows, columns = np.nonzero(erased)
    assert not ((rows - 10) ** 2 + (columns - 10) ** 2 < 2**2).any()


@pytest.mark.parametrize(
    "given",
    [
        {},
        None,
        {"kind": "knife", "points": [[1, 2]]},
        {"kind": "brush", "points": []},
        {"kind": "brush", "points": [[1, "NaN"]]},
        {"kind": "brush", "points": [[1, 2]], "radius": -1},
        {"kind": "point", "points": [[1, 2]], "label": 7},
        {"kind": "brush", "points": [[1, 2, 3]]},
        {"kind": "brush", "points": [[1, 1]] * 20_001},
    ],
)
def test_invalid_strokes_are_refused(given):
    with pytest.raises(UserError, match="not a valid stroke"):
        Stroke.read(given)
