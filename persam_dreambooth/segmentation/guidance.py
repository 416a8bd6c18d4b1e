"""Target-guided attention and target-semantic prompting (equations 8-10), as hooks on an unmodified SAM decoder."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Guidance:
    """Guidance of the first decoder pass by the subject.

    Attributes:
        attention_bias: (h * w,) float32, added to every token-to-image attention map of the two
            blocks *after* its softmax, followed by a second softmax (equation 8). None: no guided attention.
        target_embedding: (C,) float32, T_R of equation 9, added to the decoder's tokens. None: no
            semantic prompting.
        repeat_embedding: add T_R again before every further block and to the query of the final
            attention, as the official code does; False adds it once, as the paper prints it.
    """

    attention_bias: Tensor | None = None
    target_embedding: Tensor | None = None
    repeat_embedding: bool = True


@contextmanager
def guided(decoder: nn.Module, guidance: Guidance | None) -> Iterator[None]:
    """Attach guidance to a mask decoder for the duration of a `with` block.

    Works on any decoder whose `transformer` has `layers` with a `cross_attn_token_to_image` and
    a `final_attn_token_to_image`: segment-anything's and those of transformers (SAM, SAM-HQ, SAM 2,
    EdgeTAM, SAM 3's tracker). Only forward hooks are used, and all are removed on exit, even if the
    block raises.
    """
    with ExitStack() as attached:
        if guidance is not None:
            transformer: Any = decoder.transformer
            if guidance.attention_bias is not None:
                hook = _second_softmax(guidance.attention_bias)
                for layer in transformer.layers:
                    cross = layer.cross_attn_token_to_image
                    attached.enter_context(cross.register_forward_hook(hook, with_kwargs=True))
            if guidance.target_embedding is not None:
                for module, name, position in _embedding_sites(transformer, guidance.repeat_embedding):
                    add = _add_to(name, position, guidance.target_embedding)
                    attached.enter_context(module.register_forward_pre_hook(add, with_kwargs=True))
        yield


def _embedding_sites(transformer: Any, repeated: bool) -> Iterator[tuple[nn.Module, tuple[str, ...], int]]:
    """Yield where T_R is added: (module, names of the argument across families, its index if positional).

    The transformer's token input has two roles, the first queries and the positional term of all
    blocks, so adding to it means "before block 1 and to the positional term as well".
    """
    yield transformer, ("point_embedding", "point_embeddings"), 2
    if repeated:
        for layer in transformer.layers[1:]:
            yield layer, ("queries",), 0
        yield transformer.final_attn_token_to_image, ("q", "query"), 0


Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]


def _add_to(names: tuple[str, ...], position: int, embedding: Tensor) -> Hook:
    """Return a pre-hook that adds `embedding` to one argument, out of place."""

    def add(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for name in names:
            if name in kwargs:
                return args, kwargs | {name: kwargs[name] + embedding}
        return (*args[:position], args[position] + embedding, *args[position + 1 :]), kwargs

    return add


def _second_softmax(bias: Tensor) -> Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Any]:
    """Return a hook that replaces an attention module's output with that of `guided_attention`."""

    def replace(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        # All families pass query, key and value first and in this order, under different names.
        query, key, value = (*args, *kwargs.values())[:3]
        guided_output = guided_attention(module, query, key, value, bias)
        return (guided_output, *output[1:]) if isinstance(output, tuple) else guided_output

    return replace


def guided_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Equation 8: softmax(A + bias) V, with A = softmax(Q K^T / sqrt(d)) already normalized.

    Args:
        module: an attention layer with `q_proj`, `k_proj`, `v_proj`, `out_proj` (SAM 2: `o_proj`) and a head count.
        query: (..., tokens, C), the decoder's tokens.
        key: (..., h * w, C), the image embedding with its positional term.
        value: (..., h * w, C), the image embedding.
        bias: (h * w,), shared by all tokens and heads.

    Returns:
        (..., tokens, C), after the output projection.
    """
    heads = module.num_heads if hasattr(module, "num_heads") else module.num_attention_heads
    q, k, v = (
        projection(x).unflatten(-1, (heads, -1)).transpose(-2, -3)  # (..., heads, length, C / heads)
        for projection, x in ((module.q_proj, query), (module.k_proj, key), (module.v_proj, value))
    )
    attention = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
    attention = torch.softmax(attention + bias, dim=-1)
    project_out = module.out_proj if hasattr(module, "out_proj") else module.o_proj
    output: Tensor = project_out((attention @ v).transpose(-2, -3).flatten(-2))
    return output
