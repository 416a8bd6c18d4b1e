"""The three fidelities' rules: the attention bias of equation 8 and the target feature."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Reference
from persam_dreambooth.segmentation.fidelity import FIDELITIES
from persam_dreambooth.segmentation.frame import Frame

SIDE, GRID = 128, 8

# The attention bias


sizes = st.tuples(st.integers(32, 160), st.integers(32, 160)).filter(lambda size: max(size) <= 4 * min(size))


def photo_cells(frame):
    """Return the number of rows and columns of cells that contain part of the photo."""
    return tuple(-(-edge * GRID // frame.side) for edge in frame.resized)


def blob(frame, row, column):
    """Return an (H, W) confidence map with a single peak, at the center of a cell."""
    height, width = frame.resized
    cell = frame.side / GRID
    # Model-frame centre of every photo pixel, in cells.
    y = (torch.arange(frame.height) + 0.5) * height / frame.height / cell
    x = (torch.arange(frame.width) + 0.5) * width / frame.width / cell
    distance = (y[:, None] - row - 0.5) ** 2 + (x - column - 0.5) ** 2
    return torch.exp(-distance / 2)


@settings(max_examples=30, deadline=None)
@given(sizes, st.data())
def test_corrected_puts_bias_on_subject_cell(size, data):
    frame = Frame(*size, SIDE)
    rows, columns = (edge * GRID // SIDE for edge in frame.resized)  # cells full of photo
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    bias = FIDELITIES["corrected"].attention_bias(torch.zeros(GRID, GRID), blob(frame, row, column), frame, 1.0)
    assert divmod(int(bias.argmax()), GRID) == (row, column)


def test_official_shifts_bias_away_from_subject_cell():
    frame = Frame(100, 200, SIDE)  # fills rows 0 to 3 of 8
    confidence = blob(frame, row=2, column=5)
    official = FIDELITIES["official"].attention_bias(torch.zeros(GRID, GRID), confidence, frame, 1.0)
    row, column = divmod(int(official.argmax()), GRID)
    assert row in (4, 5)  # twice as far down
    assert column == 5


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 2**31))
def test_corrected_gives_padded_cells_lowest_bias(size, seed):
    frame = Frame(*size, SIDE)
    rows, columns = photo_cells(frame)
    confidence = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    bias = FIDELITIES["corrected"].attention_bias(torch.zeros(GRID, GRID), confidence, frame, 1.0)
    padding = torch.cat([bias[rows:].flatten(), bias[:, columns:].flatten()])
    assume(padding.numel() > 0)
    lowest = ((confidence.min() - confidence.mean()) / confidence.std()).sigmoid()
    torch.testing.assert_close(padding, lowest.expand_as(padding))
    assert lowest <= bias.min() + 1e-6


@settings(max_examples=30, deadline=None)
@given(sizes, st.floats(0.25, 100), st.integers(0, 2**31))
def test_paper_bias_sums_to_alpha_and_is_zero_in_padding(size, alpha, seed):
    frame = Frame(*size, SIDE)
    rows, columns = photo_cells(frame)
    similarity = torch.rand(GRID, GRID, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    bias = FIDELITIES["paper"].attention_bias(similarity, torch.zeros(size), frame, alpha)
    assert bias.sum().item() == pytest.approx(alpha, rel=1e-5)
    assert (bias[rows:] == 0).all()
    assert (bias[:, columns:] == 0).all()
    inside = similarity[:rows, :columns]
    expected = alpha * torch.softmax(inside.flatten(), dim=0).view_as(inside)
    torch.testing.assert_close(bias[:rows, :columns], expected)


@pytest.mark.parametrize("fidelity", ["official", "corrected"])
def test_constant_confidence_gives_finite_bias(fidelity):
    confidence, frame = torch.full((50, 120), 0.25), Frame(50, 120, SIDE)
    bias = FIDELITIES[fidelity].attention_bias(torch.zeros(GRID, GRID), confidence, frame, 1.0)
    assert bias.isfinite().all()


# The target feature and the cells


def test_target_feature_is_mean_or_midpoint_with_maximum():
    features = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    for fidelity in ("official", "corrected"):
        rules = FIDELITIES[fidelity]
        torch.testing.assert_close(rules.target_feature(features, False), torch.tensor([1.0, 2.0]) / 5**0.5)
        # Maxima (3, 5) and means (1, 2): the midpoint is (2, 3.5).
        torch.testing.assert_close(rules.target_feature(features, True), torch.tensor([4.0, 7.0]) / 65**0.5)
    paper = FIDELITIES["paper"]
    for with_maximum in (False, True):
        torch.testing.assert_close(paper.target_feature(features, with_maximum), torch.tensor([1.0, 2.0]) / 3)


def test_only_official_reads_levels_of_file_and_refuses_mask_between_cells():
    mask = np.zeros((8, 8), np.uint8)
    mask[5, 2] = 7
    reference, frame = Reference(np.zeros((8, 8, 3), np.uint8), mask), Frame(8, 8, SIDE)
    levels = {name: int(rules.mask_levels(reference)[5, 2]) for name, rules in FIDELITIES.items()}
    assert levels == {"official": 7, "corrected": 128, "paper": 128}
    with pytest.raises(UserError, match="use fidelity 'corrected'"):
        FIDELITIES["official"].cells_without_foreground(reference, frame, GRID)
    for fidelity in ("corrected", "paper"):
        cells = FIDELITIES[fidelity].cells_without_foreground(reference, frame, GRID)
        assert cells.nonzero().tolist() == [[5, 2]]


def test_only_paper_adds_target_embedding_once():
    assert [rules.repeat_embedding for rules in FIDELITIES.values()] == [True, True, False]
