"""Record the calls of a denoiser, and make latents with a different value in each cell."""

import torch

from persam_dreambooth.training.families.base import Noised


def calls_of(module):
    """Record the calls of a module from now on: its arguments, those by name, and what it returned."""
    calls = []
    module.register_forward_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    return calls


def numbered(height, width):
    """Noised latents of two pictures, (2, 4, h, w), whose cells have the value 100 y + x."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = (100.0 * rows + columns).expand(2, 4, -1, -1)
    return Noised(cells, torch.tensor([250.0, 750.0]), cells)


def upper_left(places):
    """The value of `numbered` in the first cell of tokens of 2 x 2 cells, by the tokens' rows and columns."""
    return 200 * places[..., 0] + 2 * places[..., 1]
