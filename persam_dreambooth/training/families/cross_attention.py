"""Record a UNet's cross-attention, for the attention loss.

The layers are not changed: hooks record the queries and keys that they compute, and the probabilities are recomputed
from those. So the prediction is bitwise the same with any attention implementation, and a checkpointed block computes
the same in the backward pass as in the forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from persam_dreambooth.training.families.attention_maps import AttentionMaps
from persam_dreambooth.training.families.loading import unwrapped

LEVEL: Final = 2
"""Number of halvings of the paper's maps: 16 x 16 for 64 x 64 latents."""


@dataclass
class CrossAttention(AttentionMaps):
    """Queries and keys that cross-attention layers of one resolution computed in one prediction.

    Attributes:
        layers: diffusers' `Attention` modules.
        queries: of each layer, (B, h w, heads channels).
        keys: of each layer, (B, length, heads channels).
    """

    layers: Sequence[Any]
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)

    def shares(self, places: Sequence[Sequence[Sequence[int]]], positions: int) -> Tensor:
        """Return the mean of the words' columns of `probabilities`."""
        rows = zip(self.probabilities(len(places)), places, strict=True)
        return torch.stack([found[:, list(words)].mean(-1) for found, regions in rows for words in regions])

    def probabilities(self, count: int) -> Tensor:
        """Return the first `count` pictures' attention, averaged over heads and layers, (count, h w, length) float32.

        The rows sum to 1.
        """
        means = []
        for layer, query, key in zip(self.layers, self.queries, self.keys, strict=True):
            by_head = (layer.head_to_batch_dim(states[:count].float()) for states in (query, key))
            with torch.autocast(query.device.type, enabled=False):
                means.append(layer.get_attention_scores(*by_head).unflatten(0, (count, -1)).mean(1))
        return torch.stack(means).mean(0)


@contextmanager
def recorded(unet: nn.Module) -> Iterator[CrossAttention]:
    """Record one prediction of the UNet into the `CrossAttention` inside the block.

    The layers are those whose maps are nearest to a quarter of the latents' side; the finer ones on a tie.
    """
    layers = _layers(unwrapped(unet))
    level = min(layers, key=lambda halvings: (abs(halvings - LEVEL), halvings))
    seen = CrossAttention(level, layers[level])
    with ExitStack() as stack:
        for layer in seen.layers:
            for module, kept in ((layer.to_q, seen.queries), (layer.to_k, seen.keys)):
                handle = module.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
                stack.callback(handle.remove)
        yield seen


def _layers(unet: Any) -> dict[int, list[Any]]:
    """Group a UNet's cross-attention layers, in their order, by the number of halvings of their maps."""
    depth, found = len(unet.down_blocks), dict[int, list[Any]]()
    blocks = [*enumerate(unet.down_blocks), (depth - 1, unet.mid_block)]
    blocks += [(depth - 1 - number, block) for number, block in enumerate(unet.up_blocks)]
    for level, block in blocks:
        for name, module in block.named_modules() if block is not None else ():
            if name.endswith("attn2"):
                found.setdefault(level, []).append(module)
    return found
