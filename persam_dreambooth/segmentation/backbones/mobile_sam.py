"""MobileSAM (Zhang et al. 2023, arXiv 2306.14289): SAM's prompt encoder and mask decoder behind a TinyViT.

Modules are named after the weights in `mobile_sam.pt`. Feature maps are (B, C, h, w) throughout.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

KNOWN_BY = "image_encoder.patch_embed.seq.0.c.weight"
"""A weight that MobileSAM has and ViT-B, L and H do not."""
PROMPT_WIDTH, CLASSES = 256, 1000


def build_mobile_sam(side: int = 1024) -> Sam:
    """Build a MobileSAM without pretrained weights for `side` x `side` pixels, with one grid cell per 16 pixels."""
    grid = side // 16
    prompts = PromptEncoder(PROMPT_WIDTH, (grid, grid), (side, side), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=PROMPT_WIDTH, num_heads=8, mlp_dim=2048)
    decoder = MaskDecoder(transformer_dim=PROMPT_WIDTH, transformer=transformer, num_multimask_outputs=3)
    return Sam(TinyViT(side), prompts, decoder)


class TinyViT(nn.Module):
    """MobileSAM's image encoder: one stage of convolutions and three of windowed attention.

    The last stage keeps the resolution of the third, unlike in the TinyViT for image classification.
    """

    def __init__(
        self,
        side: int = 1024,
        widths: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (2, 4, 5, 10),
        windows: Sequence[int] = (7, 7, 14, 7),
    ) -> None:
        super().__init__()
        self.img_size = side
        first = widths[0]
        stem = nn.Sequential(_convolution(3, first // 2, 3, 2), nn.GELU(), _convolution(first // 2, first, 3, 2))
        self.patch_embed = nn.ModuleDict({"seq": stem})
        self.layers = nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks: list[nn.Module] = [
                Block(width, heads[stage], windows[stage]) if stage else Expansion(width) for _ in range(depth)
            ]
            merge = None
            if stage + 1 < len(widths):
                merge = Merge(width, widths[stage + 1], stride=1 if stage + 2 == len(widths) else 2)
            self.layers.append(Stage(blocks, merge))
        # The classification head of pretraining; loaded, not used.
        self.norm_head, self.head = nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], CLASSES)
        self.neck = nn.Sequential(
            nn.Conv2d(widths[-1], PROMPT_WIDTH, 1, bias=False),
            LayerNorm2d(PROMPT_WIDTH),
            nn.Conv2d(PROMPT_WIDTH, PROMPT_WIDTH, 3, padding=1, bias=False),
            LayerNorm2d(PROMPT_WIDTH),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, S, S) images as (B, 256, S / 16, S / 16)."""
        maps = self.patch_embed["seq"](pixels)
        for stage in self.layers:
            maps = stage(maps)
        features: Tensor = self.neck(maps)
        return features


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Build a same-padded convolution with batch normalization."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(c=convolution, bn=nn.BatchNorm2d(outputs)))


class Stage(nn.Module):
    """Blocks of one width, then the transition to the next stage."""

    def __init__(self, blocks: list[nn.Module], merge: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.downsample = nn.ModuleList(blocks), merge

    def forward(self, maps: Tensor) -> Tensor:
        for block in self.blocks:
            maps = block(maps)
        return maps if self.downsample is None else self.downsample(maps)


class Expansion(nn.Module):
    """Inverted bottleneck: expansion, depthwise convolution, projection, with a residual connection."""

    def __init__(self, width: int, factor: int = 4) -> None:
        super().__init__()
        wide = width * factor
        self.conv1, self.conv3 = _convolution(width, wide, 1), _convolution(wide, width, 1)
        self.conv2 = _convolution(wide, wide, 3, groups=wide)

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.gelu(self.conv2(F.gelu(self.conv1(maps))))
        return F.gelu(maps + self.conv3(inner))


class Merge(nn.Module):
    """Transition to the next stage's width and, with stride 2, to half the resolution."""

    def __init__(self, width: int, next_width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(width, next_width, 1)
        self.conv2 = _convolution(next_width, next_width, 3, stride, groups=next_width)
        self.conv3 = _convolution(next_width, next_width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        merged: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(maps)))))
        return merged


class Block(nn.Module):
    """Windowed attention, a depthwise convolution and an MLP of two linear layers."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(width, heads, window)
        self.local_conv = _convolution(width, width, 3, groups=width)
        self.mlp = nn.Sequential(
            OrderedDict(
                norm=nn.LayerNorm(width),
                fc1=nn.Linear(width, 4 * width),
                act=nn.GELU(),
                fc2=nn.Linear(4 * width, width),
            )
        )

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.local_conv(maps + self._attend(maps))
        tokens = maps.permute(0, 2, 3, 1)
        out: Tensor = (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)
        return out

    def _attend(self, maps: Tensor) -> Tensor:
        """Partition into windows (the last ones zero-padded), attend within each, and reverse the partition."""
        batch, channels, height, width = maps.shape
        size = self.window
        rows, columns = -(-height // size), -(-width // size)
        padded = F.pad(maps, (0, columns * size - width, 0, rows * size - height))
        windows = padded.view(batch, channels, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1)
        attended: Tensor = self.attn(windows.reshape(-1, size * size, channels))
        merged = attended.view(batch, rows, columns, size, size, channels).permute(0, 5, 1, 3, 2, 4)
        return merged.reshape(batch, channels, rows * size, columns * size)[..., :height, :width]


class WindowAttention(nn.Module):
    """Attention among the cells of a window, with a learned bias for each absolute offset between two cells."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.distances: Tensor
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        cells = torch.arange(window * window)
        down = (cells[:, None] // window - cells // window).abs()
        across = (cells[:, None] % window - cells % window).abs()
        self.register_buffer("distances", down * window + across, persistent=False)  # (cells, cells)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend within each window, (windows, cells, C) in and out."""
        parts = self.qkv(self.norm(tokens)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query, key, value = parts.chunk(3, dim=-1)  # each (windows, heads, cells, C / heads)
        bias = self.attention_biases[:, self.distances]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None].to(query.dtype))
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out
