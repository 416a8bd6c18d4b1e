"""Parts of SAM that the smaller SAMs share: prompt encoder, mask decoder, and the neck of the image encoder."""

from typing import Final

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import nn

WIDTH: Final = 256
"""Channels of SAM's embedding."""
CELL: Final = 16
"""Side of a cell of the embedding, in pixels."""


def small_sam(encoder: nn.Module, side: int) -> Sam:
    """Build a SAM for `side` x `side` pixels on top of another image encoder, whose `img_size` is `side`."""
    prompts = PromptEncoder(WIDTH, (side // CELL, side // CELL), (side, side), mask_in_chans=16)
    return Sam(encoder, prompts, mask_decoder())


def mask_decoder(activation: type[nn.Module] = nn.ReLU) -> MaskDecoder:
    """Build SAM's mask decoder with the given activation in the transformer's MLPs."""
    transformer = TwoWayTransformer(depth=2, embedding_dim=WIDTH, num_heads=8, mlp_dim=2048, activation=activation)
    return MaskDecoder(transformer_dim=WIDTH, transformer=transformer, num_multimask_outputs=3)


def neck(channels: int) -> nn.Sequential:
    """Build the neck of SAM's image encoder: (B, channels, h, w) features to (B, 256, h, w)."""
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 1, bias=False),
        LayerNorm2d(WIDTH),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
        LayerNorm2d(WIDTH),
    )
