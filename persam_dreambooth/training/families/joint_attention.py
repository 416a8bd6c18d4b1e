"""Record a transformer's joint attention over text and picture, for the attention loss.

A picture's position attends to all tokens of text and picture together; its attention to the text is what a UNet's
cross-attention is. The layers are not changed: what they pass to `scaled_dot_product_attention`, that is queries and
keys after norms and rotary embedding, is recorded on its way. The attention to some words is then torch's attention
once more, to values that are 1 at these words and 0 elsewhere, so that no probabilities are ever written out.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.families.attention_maps import AttentionMaps

LAYERS: Final = 4
"""Number of layers that are recorded, those in the middle; of a UNet such as Stable Diffusion 1.5 there are five."""


@dataclass
class JointAttention(AttentionMaps):
    """Queries and keys that joint attention layers computed in one prediction.

    Attributes:
        text_first: whether the tokens of the text come before those of the picture, or after them.
        multiple: the picture's tokens are padded to a multiple of this before those of the text.
        calls: number of the layers' calls.
        queries, keys: of each layer, (B, heads, tokens, channels).
        masks: of each layer, the keys that count, (B, 1, 1, tokens) bool; None if all do.
    """

    text_first: bool
    multiple: int = 1
    calls: int = 0
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)

    def shares(self, places: Sequence[Sequence[Sequence[int]]], positions: int) -> Tensor:
        """Return the attention to the words, among all tokens of text and picture.

        Raises:
            UserError: the layers used another attention than torch's.
        """
        if len(self.queries) != self.calls:
            raise UserError(
                "--attention_loss_weight needs torch's own attention, but diffusers was told to use another; unset "
                "DIFFUSERS_ATTN_BACKEND"
            )
        found = []
        for query, key, mask in zip(self.queries, self.keys, self.masks, strict=True):
            query, key = query[: len(places)], key[: len(places)]
            text, picture = self._parts(query.shape[2], positions)
            value = _marked(places, query, text.start)
            mask = None if mask is None else mask[: len(places)]
            found.append(F.scaled_dot_product_attention(query[:, :, picture], key, value, mask).float().mean(1))
        means = torch.stack(found).mean(0)
        return torch.stack(
            [
                means[number, :, region] / len(words)
                for number, regions in enumerate(places)
                for region, words in enumerate(regions)
            ]
        )

    def _parts(self, tokens: int, positions: int) -> tuple[slice, slice]:
        """Return the tokens of the text and of the picture."""
        if self.text_first:
            return slice(0, tokens - positions), slice(tokens - positions, tokens)
        return slice(-(-positions // self.multiple) * self.multiple, tokens), slice(0, positions)


def _marked(places: Sequence[Sequence[Sequence[int]]], query: Tensor, start: int) -> Tensor:
    """Return values, (B, heads, tokens, channels): in channel r, 1 at the words of region r, whose text is at `start`.

    There are as many channels as the queries have, since only then is torch's attention fused.
    """
    _, heads, tokens, channels = query.shape
    value = query.new_zeros(len(places), 1, tokens, max(channels, *map(len, places)))
    for number, regions in enumerate(places):
        for region, words in enumerate(regions):
            value[number, :, [start + word for word in words], region] = 1
    return value.expand(-1, heads, -1, -1)


class _Recorder(TorchFunctionMode):
    """While active, passes all calls on, and records what is given to `scaled_dot_product_attention`."""

    def __init__(self, seen: JointAttention) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._record(*args, **kwargs)
        return func(*args, **kwargs)

    def _record(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **more: Any) -> None:
        assert attn_mask is None or attn_mask.dtype == torch.bool, "attention with a bias is not recomputed"
        assert more.get("scale") is None, "scaled attention is not recomputed"
        self.seen.queries.append(query)
        self.seen.keys.append(key)
        self.seen.masks.append(attn_mask)


@contextmanager
def recorded(layers: Sequence[nn.Module], text_first: bool, multiple: int = 1) -> Iterator[JointAttention]:
    """Record one prediction into the `JointAttention` inside the block.

    Args:
        layers: all of the transformer's joint attention layers.
        text_first: as the layers join the tokens.
        multiple: likewise, see `JointAttention`.
    """
    seen = JointAttention(1, text_first, multiple)  # a token is 2 x 2 cells in all of these models
    recorder = _Recorder(seen)

    def begin(*_: Any) -> None:
        seen.calls += 1
        recorder.__enter__()

    def end(*_: Any) -> None:
        recorder.__exit__(None, None, None)

    first = max(0, (len(layers) - LAYERS) // 2)
    with ExitStack() as stack:
        for layer in layers[first : first + LAYERS]:
            stack.callback(layer.register_forward_pre_hook(begin).remove)
            stack.callback(layer.register_forward_hook(end, always_call=True).remove)
        yield seen
