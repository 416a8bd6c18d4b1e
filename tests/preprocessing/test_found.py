"""Small holes and specks: against a plain flood fill."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from persam_dreambooth.preprocessing.found import without_small_regions

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def regions(mask):
    """Yield the 8-connected regions of a mask as sets of pixels, by flood fill."""
    left = set(zip(*np.nonzero(mask), strict=True))
    while left:
        region, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            border += near
        yield region


def by_flood_fill(mask, min_region):
    result = mask.copy()
    if not mask.any():
        return result
    for hole in list(regions(~result)):
        if len(hole) < min_region:
            result[tuple(zip(*hole, strict=True))] = True
    specks = sorted(regions(result), key=len)
    for speck in specks[:-1]:
        if len(speck) < min_region:
            result[tuple(zip(*speck, strict=True))] = False
    return result


@settings(max_examples=60, deadline=None)
@given(MASKS, st.integers(0, 9))
def test_small_holes_are_filled_and_small_specks_removed(mask, min_region):
    found, expected = without_small_regions(mask, min_region), by_flood_fill(mask, min_region)
    # If all specks are too small, any of the largest may be kept.
    assert found.sum() == expected.sum()
    if not expected.any() or max(map(len, regions(expected))) >= min_region:
        np.testing.assert_array_equal(found, expected)
    assert found.any() == mask.any()


def test_regions_of_exactly_min_size_are_kept():
    mask = np.zeros((20, 20), bool)
    mask[2:12, 2:12] = True
    mask[4:6, 4:6] = False  # a hole of 4 pixels
    mask[15, 15:18] = True  # a speck of 3
    np.testing.assert_array_equal(without_small_regions(mask, 3), mask)
    cleaned = without_small_regions(mask, 4)
    assert not cleaned[15].any()
    assert not cleaned[4:6, 4:6].any()
    assert without_small_regions(mask, 5)[2:12, 2:12].all()


def test_hole_that_belongs_to_another_mask_is_not_filled():
    mask = np.ones((9, 9), bool)
    mask[2, 2] = mask[6, 6] = False
    taken = np.zeros_like(mask)
    taken[6, 6] = True
    cleaned = without_small_regions(mask, 4, taken)
    assert cleaned[2, 2]
    assert not cleaned[6, 6]
