"""Crowds: their drawings, the views of a photo, the rankings of mask proposals, and the report's counts."""

import numpy as np
import pytest
import torch

from crowds import BASE, by_subject, crowd, report
from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.types import EncodedPhoto
from rankings import Candidate, Cells, earth_mover, match, matched_share, merged, purity_coverage, views
from recipes import random_identity


def square(x, y, side=2, size=8):
    mask = np.zeros((size, size), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


@pytest.fixture
def cells():
    """A photo of 8 x 8 cells: the subject's 2 x 2 at (1, 1), at (5, 1) a look-alike that is a little less similar.

    The reference has four cells of the subject, which differ from each other, then four of its background.
    """
    colours = torch.eye(9)
    features = colours[8].repeat(64, 1)
    corners = [(x, y) for y in (0, 1) for x in (0, 1)]
    for number, (x, y) in enumerate(corners):
        features[(1 + y) * 8 + 1 + x] = colours[number]
        features[(1 + y) * 8 + 5 + x] = 0.8 * colours[number] + 0.6 * colours[8]
    centres = torch.tensor([(x, y) for y in range(8) for x in range(8)])
    reference = torch.cat([colours[:4], colours[8].repeat(4, 1)])
    own = torch.arange(8) < 4
    return Cells(reference @ features.T, own, centres, torch.zeros(64, dtype=torch.int64))


def found(mask):
    return Candidate(0, mask, mask, 0.9)


SUBJECT, LOOK_ALIKE, BACKGROUND = square(1, 1), square(5, 1), square(1, 5)


@pytest.mark.parametrize("rate", [matched_share, purity_coverage, earth_mover])
def test_subject_is_ranked_before_look_alike_background_and_larger_masks(cells, rate):
    large = square(0, 0, 8)
    rated = {name: rate(cells, found(mask)) for name, mask in [("own", SUBJECT), ("all", large), ("sky", BACKGROUND)]}
    assert rated["own"] == pytest.approx(1) and max(rated["all"], rated["sky"]) < 0.7
    assert rate(cells, found(LOOK_ALIKE)) < 0.95
    assert rate(cells, found(np.zeros((8, 8), dtype=bool))) == 0


def test_look_alike_matches_the_subject_but_is_not_matched_back(cells):
    assert cells.subject[cells.similarity[:, cells.inside(LOOK_ALIKE)].argmax(0)].all()
    assert matched_share(cells, found(LOOK_ALIKE)) == 0
    assert sorted(cells.matched.tolist()) == [9, 10, 17, 18]


def test_half_of_the_subject_has_half_the_coverage(cells):
    half = SUBJECT & (np.arange(8)[:, None] == 1)
    assert purity_coverage(cells, found(half)) == pytest.approx(0.5)
    assert matched_share(cells, found(half)) == 1


def test_masks_mostly_inside_a_rough_mask_are_merged():
    rough = square(0, 0, 4)
    inside, half, outside = square(1, 1), square(3, 0), square(5, 5)
    mostly_outside = square(3, 3)
    union = merged([found(mask) for mask in (inside, half, outside, mostly_outside)], rough)
    assert np.array_equal(union, inside | half)
    assert not merged([found(outside)], rough).any()


def test_views_are_the_photo_and_four_crops_and_cut_masks_are_dropped():
    pixels = np.arange(128 * 128 * 3, dtype=np.uint64).reshape(128, 128, 3).astype(np.uint8)
    shown = views(pixels)
    assert [view.box for view in shown] == [
        (0, 0, 128, 128), (0, 0, 86, 86), (0, 43, 86, 128), (43, 0, 128, 86), (43, 43, 128, 128),
    ]  # fmt: skip
    for view in shown:
        left, top, right, bottom = view.box
        assert np.array_equal(view.pixels, pixels[top:bottom, left:right])
    part = np.zeros((85, 85), dtype=bool)
    part[-9:, -7:] = True
    placed = shown[4].on_photo(part, (128, 128))
    assert placed.sum() == 63 and placed[-9:, -7:].all()
    for edge in (np.s_[40, 0], np.s_[0, 40]):
        cut = part.copy()
        cut[edge] = True
        assert not shown[4].on_photo(cut, (128, 128)).any()


def test_cells_lie_where_their_view_lies():
    shown = views(np.zeros((128, 128, 3), dtype=np.uint8))
    photos = [EncodedPhoto(torch.rand(3, 4, 4), Frame(*view.pixels.shape[:2], 64)) for view in shown]
    cells = match(torch.eye(3), torch.tensor([True, False, False]), shown, photos)
    assert cells.view.bincount().tolist() == [16] * 5
    assert cells.centres[0].tolist() == [16, 16] and cells.centres[15].tolist() == [112, 112]
    assert cells.centres[1].tolist() == [48, 16] and cells.centres[64].tolist() == [53, 53]
    expected = torch.nn.functional.normalize(photos[4].embedding[:, 1, 2], dim=0)
    torch.testing.assert_close(cells.similarity[:, 64 + 6], expected)


def test_crowd_has_the_subject_first_or_a_look_alike_in_its_place():
    rng = np.random.default_rng(0)
    identity = random_identity(rng, "cat", held_out=True)
    for present in (True, False) * 4:
        picture = crowd(rng, identity, present)
        cast = [individual for individual, _ in picture.recipe.subjects]
        assert 4 <= len(cast) <= 6 and (cast[0] == identity) == present and identity not in cast[1:]
        assert cast[0].kind == "cat" and 1 <= sum(other.kind == "cat" for other in cast[1:]) <= 2
        assert 200 < picture.mask().sum() < 2000


def test_report_compares_photos_with_the_subject_and_counts_them():
    def photo(subject, right, better, similarity):
        row = {"subject": subject, "right": right, "similarity": similarity, "seconds": 0.5, "proposals": 7}
        return {BASE: {**row, "iou": 0.4}, "better": {**row, "iou": better}}

    photos = [photo(0, True, 0.6, 0.9), photo(0, True, 0.2, 0.8), photo(1, True, 0.8, 0.7), photo(1, False, 1, 0.1)]
    photos.append(photo(0, False, 1, 0.2))
    assert by_subject([shown["better"] for shown in photos]) == pytest.approx([0.4, 0.8])
    table = report(photos)
    base, better = table.splitlines()[2:4]
    assert "| 40.0 [40.0, 40.0] | +0.0 [+0.0, +0.0] | 0 % |" in base
    assert "| 60.0 [40.0, 80.0] | +20.0 [+0.0, +40.0] | 67 % | 1.000" in better
    assert "3 photos with the subject, 2 without; 7.0 proposals in each" in table
