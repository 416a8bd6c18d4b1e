"""SegGPT's two ways of learning from several examples: feature ensemble and spatial ensemble.

Both are section 3.3 of its paper (Wang et al. 2023, arXiv 2304.03284). The feature ensemble is that of the authors'
code, which has no spatial ensemble.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@contextmanager
def feature_ensemble(model: Any, count: int) -> Iterator[None]:
    """Average the photo's part of every attention layer's output over `count` examples, during a `with` block.

    The model's own `feature_ensemble=True` averages the photo with its mask in layer `merge_index`, where both are
    still separate rows of the batch; the authors' code does not.

    Args:
        model: a `transformers.SegGptForImageSegmentation`, to be called with a batch of `count` examples.
        count: number of examples; with 1 there is nothing to average.
    """
    layers = model.model.encoder.layers if count > 1 else ()
    hooks = [layer.attention.register_forward_hook(partial(_average, count)) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _average(count: int, module: Any, inputs: Any, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Average the lower half of an attention layer's first output, (B, 2h, w, C), over the examples.

    The batch holds the examples' photos and then their masks, until the layer that merges the two.
    """
    attended, *others = output
    rows = attended.view(-1, count, *attended.shape[1:])  # (photos and masks, examples, 2h, w, C)
    example, photo = rows.chunk(2, dim=2)
    mean = photo.mean(1, keepdim=True).expand_as(photo)
    return (torch.cat([example, mean], dim=2).flatten(0, 1), *others)


def spatial_ensemble(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Tile examples in a square grid, shrunk to the size of one example.

    The paper does not say how a grid that is not full is filled; here its examples are repeated from the first.

    Args:
        images: (K, 3, S, S) uint8 RGB.
        masks: (K, S, S) bool.

    Returns:
        (1, 3, S, S) uint8 and (1, S, S) bool.
    """
    count, side = len(images), images.shape[-1]
    across = ceil(sqrt(count))
    chosen = torch.arange(across**2, device=images.device) % count
    levels = _tiled(images[chosen].float(), across)
    marked = _tiled(masks[chosen, None].float(), across)
    small = F.interpolate(levels, (side, side), mode="bicubic", align_corners=False, antialias=True)
    return small.round().clamp(0, 255).byte(), F.interpolate(marked, (side, side), mode="nearest-exact")[:, 0] > 0


def _tiled(maps: Tensor, across: int) -> Tensor:
    """Arrange (across^2, C, S, S) maps in rows, (1, C, across S, across S)."""
    rows = [torch.cat(list(row), dim=-1) for row in maps.view(across, across, *maps.shape[1:])]
    return torch.cat(rows, dim=-2)[None]
