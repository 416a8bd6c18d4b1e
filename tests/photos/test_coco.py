"""COCO masks: decoded exactly as by pycocotools, and no hostile input reaches it."""

import numpy as np
import pytest
from pycocotools import mask as tools

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.coco import read_segmentation, union_of
from tests.evaluation.segmentation import datasets

HEIGHT, WIDTH = 4, 6
TRIANGLE = [1, 1, 4, 1, 4, 3]
NAN, INFINITE = float("nan"), float("inf")
POLYGONS = {
    "a point at 1e9": [[1e9, 1, 4, 1, 4, 3]],  # this and the next two crash pycocotools with a segmentation fault
    "NaN": [[NAN, 1, 4, 1, 4, 3]],
    "infinity": [[INFINITE, 1, 4, 1, 4, 3]],
    "a number of 400 digits": [[10**400, 1, 4, 1, 4, 3]],
    "two widths outside": [[18.1, 1, 4, 1, 4, 3]],
    "below": [[1, -4.1, 4, 1, 4, 3]],
    "no polygon": [],
    "no point": [[]],
    "two points": [[1, 1, 4, 1]],
    "half a point": [[1, 1, 4, 1, 4, 3, 2]],
    "words": [["a", "b", "c", "d", "e", "f"]],
    "objects": [[{}, {}, {}, {}, {}, {}]],
    "ragged": [[[1, 1], [4], [4, 3]]],
    "nothing": [None],
    "deep": [[[[[[[1, 1, 4, 1, 4, [3]]]]]]]],
    "a number": [3],
    "too many edges for the photo": [[-6, 0, 12, 4] * 5000],
}
RUNS = {
    "another size": ([5, 6], [30]),
    "sizes as words": (["4", "6"], [24]),
    "a negative size": ([-4, -6], [24]),
    "a size of terabytes": ([10**6, 10**6], [10**12]),
    "no list as size": (24, [24]),
    "a long list as size": ([4] * 100_000, [24]),
    "too short": ([4, 6], [23]),
    "too long": ([4, 6], [25]),
    "none": ([4, 6], []),
    "terabytes": ([4, 6], [2**32 - 1] * 1000),
    "negative": ([4, 6], [30, -6]),
    "huge": ([4, 6], [2**64 + 24]),
    "a float": ([4, 6], [24.0]),
    "a boolean": ([4, 6], [True, 23]),
    "lists": ([4, 6], [[24]]),
    "an object": ([4, 6], {}),
    "an empty text": ([4, 6], ""),  # for this and the next two, pycocotools leaks memory contents
    "NUL": ([4, 6], "0\0"),
    "one pixel": ([4, 6], "1"),
    "cut off": ([4, 6], "oooo"),  # the last character says that another follows
    "no end": ([4, 6], "o" * 100_000 + "0"),
    "other letters": ([4, 6], "犬é"),
    "half a letter": ([4, 6], "\ud800"),
    "bytes": ([4, 6], b"\xff\xff"),
    "negative, packed": ([4, 6], "0H"),
}
OTHERS = {"nothing": None, "a word": "x", "a number": 5, "no counts": {"size": [4, 6]}, "no size": {"counts": [24]}}


def refused(segmentation):
    with pytest.raises(UserError) as refusal:
        read_segmentation(segmentation, HEIGHT, WIDTH)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 200


@pytest.mark.parametrize("polygons", POLYGONS.values(), ids=POLYGONS)
def test_invalid_polygons_are_refused(polygons):
    refused(polygons)


@pytest.mark.parametrize(("size", "counts"), RUNS.values(), ids=RUNS)
def test_run_lengths_that_do_not_fill_photo_are_refused(size, counts):
    refused({"size": size, "counts": counts})


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_values_of_other_types_are_refused(other):
    refused(other)


@pytest.mark.parametrize("scale", [1, 9, 40])  # longer runs give packed numbers more digits
def test_packed_run_lengths_decode_as_in_pycocotools(scale):
    random = np.random.default_rng(scale)
    for _ in range(20):
        mask = np.kron(random.random(random.integers(1, 20, 2)) < random.random(), np.ones((scale, 3))).astype(
            np.uint8
        )
        packed = tools.encode(np.asfortranarray(mask))
        for counts in (packed["counts"], packed["counts"].decode()):
            read = read_segmentation({"size": list(mask.shape), "counts": counts}, *mask.shape)
            np.testing.assert_array_equal(read, mask > 0)


def test_polygons_slightly_outside_photo_are_drawn_as_by_pycocotools():
    random = np.random.default_rng(0)
    for _ in range(20):
        polygons = [random.uniform(-10, 40, 2 * random.integers(3, 9)).tolist() for _ in range(2)]
        expected = tools.decode(tools.merge(tools.frPyObjects(polygons, 20, 30))) > 0
        np.testing.assert_array_equal(read_segmentation(polygons, 20, 30), expected)


def test_points_and_lines_cover_nothing():
    alone = read_segmentation([TRIANGLE], HEIGHT, WIDTH)
    np.testing.assert_array_equal(read_segmentation([[], [5, 3], TRIANGLE, [0, 0, 5, 3]], HEIGHT, WIDTH), alone)


def test_masks_of_all_kinds_are_united():
    array = np.zeros((HEIGHT, WIDTH), np.uint8)
    array[0, 0] = 1
    union = union_of([array, [TRIANGLE], {"size": [HEIGHT, WIDTH], "counts": [23, 1]}], HEIGHT, WIDTH)
    assert union[0, 0] and union[-1, -1] and union[1, 2] and not union[0, 1]


def test_all_mask_encodings_decode_to_same_mask():
    mask = datasets.square(7, 11, 9)
    # Run lengths go down the columns, background first.
    changes = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [0]]))).tolist()
    runs = np.diff([0, *changes, mask.size]).tolist()
    unpacked = {"size": list(mask.shape), "counts": runs}
    for way in (datasets.polygon(7, 11, 9), datasets.packed(mask), unpacked, mask.astype(np.uint8)):
        np.testing.assert_array_equal(union_of([way], *mask.shape), mask)
    np.testing.assert_array_equal(union_of([], *mask.shape), np.zeros_like(mask))


@pytest.mark.parametrize(
    "broken", ["a string", {"counts": "x"}, datasets.packed(np.ones((3, 4), bool)), np.ones((3, 4))]
)
def test_invalid_mask_is_refused(broken):
    with pytest.raises(UserError):
        union_of([broken], 40, 60)
