"""Metrics: cases counted by hand, and properties that hold for any two masks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.metrics import (
    Overlap,
    boundary_band,
    boundary_f,
    boundary_overlap,
    contour,
    overlap,
)

shifts = st.tuples(st.integers(-3, 3), st.integers(-3, 3))
masks = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(lambda size: arrays.arrays(bool, size))


def box(top, left, bottom, right, size=(20, 20)):
    """A filled rectangle; the last row and column are inside."""
    mask = np.zeros(size, bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


# On 20 x 20 pixels the diagonal is 28.3: the band of Boundary IoU is 1 pixel wide (0.02 * 28.3 = 0.57), and F
# tolerates 1 pixel (0.008 * 28.3 = 0.23, rounded up).
ONE = box(2, 2, 7, 7)  # 6 x 6 = 36 pixels
BESIDE = box(2, 3, 7, 8)  # the same, one pixel to the right
FAR = box(2, 4, 7, 9)  # two pixels to the right


def test_overlap_counts_pixels():
    # They share 6 rows of 5 pixels: I = 30, U = 36 + 36 - 30 = 42.
    assert overlap(ONE, BESIDE) == Overlap(30, 42, 36)
    assert overlap(ONE, BESIDE).iou == 30 / 42
    assert overlap(ONE, BESIDE).accuracy == 30 / 36
    # A target twice as large: all predicted pixels are right, and half of the target is covered.
    assert overlap(ONE, box(2, 2, 7, 13)).accuracy == 0.5


def test_void_pixels_do_not_count():
    # Without the three right columns of `BESIDE` (6 to 8) 4 of the 6 columns of `ONE` are left, of which 3 are shared.
    void = box(0, 6, 19, 19)
    assert overlap(ONE, BESIDE, void) == Overlap(6 * 3, 6 * 4, 6 * 3)


def test_empty_masks():
    nothing = np.zeros((20, 20), bool)
    assert overlap(nothing, nothing).iou == boundary_f(nothing, nothing) == 1
    assert boundary_overlap(nothing, nothing).iou == 1
    for pair in ((nothing, ONE), (ONE, nothing)):
        assert overlap(*pair).iou == boundary_f(*pair) == boundary_overlap(*pair).iou == 0


def test_overlaps_add_up_before_they_are_divided():
    assert (Overlap(1, 2, 2) + Overlap(1, 8, 3)) == Overlap(2, 10, 5)
    assert (Overlap(1, 2, 2) + Overlap(1, 8, 3)).iou == 0.2


def test_boundary_band_is_mask_without_its_inside():
    # A 6 x 6 square without the 4 x 4 inside.
    assert boundary_band(ONE).sum() == 36 - 16
    assert not boundary_band(ONE)[3:7, 3:7].any()
    # The image's edge is a boundary too: 20 x 20 without 18 x 18.
    assert boundary_band(np.ones((20, 20), bool)).sum() == 400 - 324
    # 100 x 100: the diagonal is 141.4, 2 % of it 2.8, so three pixels on every side go: 94 x 94 are inside.
    assert boundary_band(np.ones((100, 100), bool)).sum() == 10000 - 94 * 94


def test_boundary_iou_by_hand():
    # Both bands have 20 pixels. The upper and the lower row share columns 3 to 7, 5 pixels each; the left and the
    # right columns of one run through the inside of the other. I = 10, U = 20 + 20 - 10 = 30.
    assert boundary_overlap(ONE, BESIDE).iou == 10 / 30


def test_contour_is_half_a_pixel_up_and_left():
    # A pixel belongs to it where its right, lower or lower right neighbour differs: for the square on rows and columns
    # 2 to 7 the ring of rows and columns 1 to 7, 4 * 7 - 4 = 24 pixels.
    ring = box(1, 1, 7, 7) & ~box(2, 2, 6, 6)
    np.testing.assert_array_equal(contour(ONE), ring)
    # At the image's edge there is no neighbour and so no contour.
    assert not contour(np.ones((5, 5), bool)).any()


def test_f_by_hand():
    # A shift of one pixel is within the tolerance.
    assert boundary_f(ONE, BESIDE) == 1
    # Two aside: the rings have 24 pixels on rows 1 to 7, columns 1 to 7 and 3 to 9. Of the first, the upper row has
    # columns 3 to 7 in common with the second and column 2 next to it, 6 pixels; the lower row too. Its left column is
    # 2 away; of its right column, the pixels below the upper and above the lower row touch those of the
    # second. 14 of 24, and as many the other way round: precision = recall = F = 14 / 24.
    assert boundary_f(ONE, FAR) == pytest.approx(14 / 24)
    # A tolerance of two pixels (0.05 * 28.3 = 1.4, rounded up) accepts them all.
    assert boundary_f(ONE, FAR, share=0.05) == 1


def test_f_is_harmonic_mean_of_precision_and_recall():
    # A second square far away is not in the truth: recall 1; precision 24 of 48. F = 2 * 0.5 / 1.5.
    both = ONE | box(12, 12, 17, 17)
    assert boundary_f(both, ONE) == boundary_f(ONE, both) == pytest.approx(2 / 3)
    # Where that square is void, it is not there.
    assert boundary_f(both, ONE, void=box(10, 10, 19, 19)) == 1


@pytest.mark.parametrize("measure", [overlap, boundary_overlap, boundary_f])
def test_masks_of_different_sizes_are_refused(measure):
    # numpy would broadcast one over the other.
    with pytest.raises(UserError, match="different sizes"):
        measure(np.ones((1, 9), bool), np.ones((9, 9), bool))


@settings(max_examples=50, deadline=None)
@given(masks)
def test_mask_matches_itself(mask):
    assert overlap(mask, mask).iou == boundary_overlap(mask, mask).iou == boundary_f(mask, mask) == 1


@settings(max_examples=50, deadline=None)
@given(st.data(), masks)
def test_measures_are_symmetric_and_within_bounds(data, mask):
    other = data.draw(arrays.arrays(bool, mask.shape))
    for measure in (lambda a, b: overlap(a, b).iou, lambda a, b: boundary_overlap(a, b).iou, boundary_f):
        assert measure(mask, other) == pytest.approx(measure(other, mask))
        assert 0 <= measure(mask, other) <= 1


@settings(max_examples=50, deadline=None)
@given(masks, st.floats(0.01, 0.5))
def test_boundary_band_equals_d_erosions_with_zero_padding(mask, share):
    eroded = np.pad(mask, 1)
    for _ in range(max(1, round(share * math.hypot(*mask.shape)))):
        neighbours = np.pad(eroded, 1, mode="edge")
        height, width = eroded.shape
        eroded = np.all([neighbours[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    np.testing.assert_array_equal(boundary_band(mask, share), mask & ~eroded[1:-1, 1:-1])


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(bool, (12, 12)), shifts.filter(lambda shift: math.hypot(*shift) <= 3))
def test_f_tolerates_shift_within_tolerance(blob, shift):
    # 200 x 300 pixels tolerate 0.008 * 360.6 = 2.9, rounded up to 3 pixels in any direction.
    mask = np.zeros((200, 300), bool)
    mask[80:92, 100:112] = blob
    assert boundary_f(np.roll(mask, shift, (0, 1)), mask) == 1


def test_f_penalizes_larger_shift():
    assert boundary_f(box(80, 100, 91, 111, (200, 300)), box(80, 104, 91, 115, (200, 300))) < 1
