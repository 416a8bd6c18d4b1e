"""Foreground cells, confidence map and location prior (equations 4 to 7), each by itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persam_dreambooth.segmentation import location
from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.types import EncodedPhoto

SIDE, GRID = 64, 8
sizes = st.tuples(st.integers(16, 90), st.integers(16, 90)).filter(lambda size: max(size) <= 4 * min(size))
quick = settings(max_examples=30, deadline=None)


def photo_cells(frame):
    """Return the number of rows and columns of cells that contain part of the photo."""
    return tuple(-(-edge * GRID // frame.side) for edge in frame.resized)


# The reference's cells


@pytest.mark.parametrize(("level", "foreground"), [(123, 0), (124, 4), (255, 4)])
def test_cell_is_foreground_above_level_123(level, foreground):
    levels = np.zeros((SIDE, SIDE), np.uint8)
    levels[16:32, 40:56] = level  # cells (2, 5) to (3, 6)
    cells = location.foreground_cells(levels, Frame(SIDE, SIDE, SIDE), GRID) > 0
    assert int(cells.sum()) == int(cells[2:4, 5:7].sum()) == foreground


def test_normalization_of_other_models_does_not_move_the_threshold():
    levels = np.full((30, 60), 128, np.uint8)
    frames = [Frame(30, 60, SIDE), Frame(30, 60, SIDE, mean=(127.5,) * 3, std=(127.5,) * 3)]
    usual, other = (location.foreground_cells(levels, frame, GRID) for frame in frames)
    assert torch.equal(usual, other)
    assert (usual[:4] > 0).all() and (usual[4:] == 0).all()  # zeros pad, and are no foreground


@quick
@given(sizes, st.data())
def test_thin_mask_selects_the_cell_of_its_pixel(size, data):
    frame, mask = Frame(*size, SIDE), np.zeros(size, bool)
    y, x = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    mask[y, x] = True
    chosen = location.best_covered_cells(mask, frame, GRID).nonzero()
    assert len(chosen)
    middle = frame.to_model(torch.tensor([x + 0.5, y + 0.5])).flip(0) * GRID / SIDE - 0.5
    assert ((chosen - middle).abs() <= 1.1).all()  # a pixel may lie on the edge of cells


def test_cell_that_is_covered_most_is_chosen():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[8:11, 16:24] = True  # cell (1, 2): 24 pixels
    mask[40:45, 48:53] = True  # cell (5, 6): 25 pixels
    assert location.best_covered_cells(mask, Frame(SIDE, SIDE, SIDE), GRID).nonzero().tolist() == [[5, 6]]


# The confidence map


def test_confidence_is_the_cosine_whatever_the_features_lengths():
    embedding = torch.tensor([[3.0, 0.0, -5.0], [0.0, 2.0, 0.0]])[:, None]  # (2, 1, 3): along, across, against
    found = location.confidence_map(torch.tensor([1.0, 0.0]), embedding)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, -1.0]]))


@quick
@given(sizes)
def test_map_over_photo_has_no_padding_and_goes_back_to_its_cells(size):
    frame = Frame(*size, SIDE)
    rows, columns = photo_cells(frame)
    similarity = torch.full((GRID, GRID), -9.0)
    similarity[: rows + 1, : columns + 1] = 0.5  # one cell more: the enlargement mixes neighbours
    confidence = location.to_photo(similarity, frame)
    torch.testing.assert_close(confidence, torch.full(size, 0.5))
    confidence[0, 0] = -0.25
    padding = location.to_grid(confidence, frame, GRID)
    assert (padding[rows:] == -0.25).all() and (padding[:, columns:] == -0.25).all()


def test_second_encoders_features_and_frame_are_compared():
    feature = torch.tensor([1.0, 0.0])
    own = EncodedPhoto(torch.ones(2, GRID, GRID), Frame(40, 60, SIDE))
    features = torch.zeros(2, 2, 2)
    features[0, :, 0] = features[1, :, 1] = 7.0  # the left half is the subject's
    other = EncodedPhoto(features, Frame(40, 60, 32, stretch=True))
    found = location.on_photo(feature, EncodedPhoto(own.embedding, own.frame, other=other))
    assert found.shape == (40, 60)
    torch.testing.assert_close(found[:, :7], torch.ones(40, 7))
    torch.testing.assert_close(found[:, -7:], torch.zeros(40, 7))
    torch.testing.assert_close(location.on_photo(feature, own), torch.full((40, 60), 0.5**0.5))


# The prior


@quick
@given(st.integers(1, 9), st.integers(2, 9), st.integers(0, 10**6))
def test_points_are_the_most_and_the_least_confident_pixel(height, width, seed):
    confidence = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed)).view(height, width)
    points, labels = location.location_prior(confidence.float(), negative=True)
    assert labels.tolist() == [1, 0]
    assert [int(confidence[y, x]) for x, y in points.tolist()] == [height * width - 1, 0]
    alone, label = location.location_prior(confidence.float(), negative=False)
    assert torch.equal(alone, points[:1]) and label.tolist() == [1]
