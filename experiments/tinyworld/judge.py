"""An independent judge of images: the scene, the subject's kind and pattern, and its mask.

It shares nothing with the models that generate images: other weights, other training, no captions.
"""

from dataclasses import dataclass

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from recipes import KIND_NAMES, SCENES
from subjects import PATTERNS


@dataclass
class Verdict:
    """The judge's logits for B images.

    Attributes:
        scene: (B, 8), in the order of `recipes.SCENES`.
        kind: (B, 8), in the order of `recipes.KIND_NAMES`.
        pattern: (B, 4), in the order of `subjects.PATTERNS`.
        mask: (B, 1, side, side); positive on the subject.
    """

    scene: Tensor
    kind: Tensor
    pattern: Tensor
    mask: Tensor


class Judge(nn.Module, PyTorchModelHubMixin):
    """A convolutional network of 0.9 million weights with a head for each output."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, width, 4, 2, 1), Block(width, width))
        self.middle = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), Block(2 * width, 2 * width))
        self.coarse = nn.Sequential(nn.Conv2d(2 * width, 3 * width, 3, 2, 1), Block(3 * width, 3 * width))
        self.scene, self.kind, self.pattern = (
            nn.Sequential(nn.Dropout(0.1), nn.Linear(6 * width, count))
            for count in (len(SCENES), len(KIND_NAMES), len(PATTERNS))
        )
        self.join_middle = nn.Sequential(nn.Conv2d(5 * width, 2 * width, 1), Block(2 * width, 2 * width))
        self.join_fine = nn.Sequential(nn.Conv2d(3 * width, width, 1), Block(width, width))
        self.mask = nn.Conv2d(width, 1, 1)

    def forward(self, pixels: Tensor) -> Verdict:
        """Judge (B, 3, side, side) float32 in [-1, 1]."""
        fine = self.fine(pixels)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        seen = _pooled(coarse)
        grow = nn.functional.interpolate
        joined = self.join_middle(torch.cat([grow(coarse, scale_factor=2.0), middle], dim=1))
        joined = self.join_fine(torch.cat([grow(joined, scale_factor=2.0), fine], dim=1))
        mask = grow(self.mask(joined), scale_factor=2.0, mode="bilinear")
        return Verdict(self.scene(seen), self.kind(seen), self.pattern(seen), mask)

    def features(self, pixels: Tensor) -> Tensor:
        """Return what scene, kind and pattern are told from, (B, 6 * width), for pixels as above."""
        return _pooled(self.coarse(self.middle(self.fine(pixels))))


def _pooled(coarse: Tensor) -> Tensor:
    """Return the mean and the maximum of (B, C, h, w) over all places, (B, 2 C)."""
    return torch.cat([coarse.mean(dim=(2, 3)), coarse.amax(dim=(2, 3))], dim=1)


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)),
            *(nn.GroupNorm(8, out), nn.SiLU(), nn.Conv2d(out, out, 3, padding=1)),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)
