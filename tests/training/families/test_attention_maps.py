"""The maps that the attention loss compares with masks, from attention that is given."""

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persam_dreambooth.training.families.attention_maps import AttentionMaps


@dataclass
class Given(AttentionMaps):
    """Shares that are known, (R, h w), instead of recorded."""

    known: torch.Tensor

    def shares(self, places, positions):
        assert positions == self.known.shape[1] and sum(map(len, places)) == len(self.known)
        return self.known


def test_maps_are_relative_to_their_own_maximum():
    known = torch.tensor([[0.3, 0.4], [0.4, 0.2], [0.3, 0.6]])
    maps = Given(0, known).maps([((0, 1), (2,)), ((1,),)], (1, 2))
    torch.testing.assert_close(maps, torch.tensor([[0.75, 1.0], [1.0, 0.5], [0.5, 1.0]]).view(3, 1, 1, 2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**31))
def test_grid_is_halved_upwards_and_each_map_reaches_one(level, height, width, seed):
    """As strided convolutions halve it; a map in rows, then columns."""
    grid = [-(-side // 2**level) for side in (height, width)]
    known = torch.rand(3, grid[0] * grid[1], generator=torch.Generator().manual_seed(seed)) + 1e-3
    maps = Given(level, known).maps([((0,), (1, 3)), ((2,),)], (height, width))
    assert maps.shape == (3, 1, *grid)
    assert (maps > 0).all() and torch.equal(maps.amax((1, 2, 3)), torch.ones(3))
    assert torch.equal(maps.flatten(1).argmax(1), known.argmax(1))


def test_words_without_any_attention_have_an_empty_map():
    known = torch.zeros(1, 4, requires_grad=True)
    maps = Given(0, known).maps([((0,),)], (2, 2))
    maps.sum().backward()
    assert torch.equal(maps, torch.zeros(1, 1, 2, 2)) and known.grad.isfinite().all()
