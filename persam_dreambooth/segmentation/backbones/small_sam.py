"""The parts that smaller SAMs share: SAM's prompt encoder and mask decoder, and the neck of its image encoder."""

from typing import Final

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import nn

WIDTH: Final = 256
"""Channels of SAM's embedding."""
CELL: Final = 16
"""Pixels along one side of a cell of the embedding."""


def small_sam(encoder: nn.Module, side: int) -> Sam:
    """Build a SAM for `side` x `side` pixels behind another image encoder, whose `img_size` is `side`."""
    prompts = PromptEncoder(WIDTH, (side // CELL, side // CELL), (side, side), mask_in_chans=16)
    return Sam(encoder, prompts, mask_decoder())


def mask_decoder(activation: type[nn.Module] = nn.ReLU) -> MaskDecoder:
    """Build SAM's mask decoder, with an activation for the transformer's MLPs."""
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
