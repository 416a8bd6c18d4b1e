"""The cases on which EdgeSAM, EfficientSAM and MobileSAM are compared with the authors' code, and the recordings."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / "data" / "small_sams"
SIDES = {"mobile_sam": 1024, "edge_sam": 256, "efficient_sam_vitt": 256, "efficient_sam_vits": 128}
"""Side of the square input in pixels; the authors' MobileSAM runs at 1024 only."""
CELLS = 8
"""Cells kept along each side of the embedding, and twice as many of the masks."""


@dataclass(frozen=True)
class Case:
    """Prompts relative to the side of the square: points (x, y) with labels, and a box."""

    points: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]
    box: tuple[float, float, float, float] | None = None


CASES = {
    "point": Case(((0.3, 0.4),), (1,)),
    "points": Case(((0.3, 0.4), (0.8, 0.1)), (1, 0)),
    "box": Case(((0.3, 0.4), (0.25, 0.6)), (1, 1), (0.1, 0.2, 0.7, 0.9)),
}


def recorded(name):
    """Return the recorded arrays of a SAM, by name."""
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


def published_shapes(name):
    """Return the names and shapes of the weights in the authors' file."""
    arrays = recorded(name)
    return {
        weight: tuple(int(size) for size in shape.split())
        for weight, shape in zip(arrays["names"].tolist(), arrays["shapes"].tolist(), strict=True)
    }


def random_state(shapes, seed=0):
    """Draw a state dict by name, scaled so that every part of the model affects its output."""
    generator, state = torch.Generator().manual_seed(seed), {}
    prompts = re.compile(r"tokens?\.|point|bbox|invalid|positional|pos_embed|no_mask|biases")
    for name, shape in sorted(shapes.items()):
        drawn = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        elif prompts.search(name):
            state[name] = drawn
        elif len(shape) > 1:
            state[name] = drawn * drawn[0].numel() ** -0.5
        else:
            state[name] = 0.1 * drawn + float(name.endswith("weight"))
    return state


def random_pixels(side):
    """Draw a normalized photo, (1, 3, S, S)."""
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def thinned(maps, cells):
    """Keep `cells` rows and columns of (..., h, w) maps, evenly spaced."""
    step = maps.shape[-1] // cells
    return maps[..., step // 2 :: step, step // 2 :: step].float().numpy()
