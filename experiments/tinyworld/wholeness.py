"""Is the subject of a picture one whole body, with the right number of heads, limbs, wheels and spouts?

A network that was trained on drawn subjects against damaged ones (`corruptions.py`). Both are worn, and half of both
have been through the autoencoder, so that softness says nothing.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import Tensor, nn

from corpus import to_pixels
from judge import Block
from loading import load
from models import WHOLENESS


class WholenessJudge(nn.Module, PyTorchModelHubMixin):
    """A convolutional network of 0.9 million weights."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, width, 4, 2, 1), Block(width, width)),
            *(nn.Conv2d(width, 2 * width, 3, 2, 1), Block(2 * width, 2 * width)),
            *(nn.Conv2d(2 * width, 3 * width, 3, 2, 1), Block(3 * width, 3 * width)),
            *(nn.Conv2d(3 * width, 4 * width, 3, 2, 1), Block(4 * width, 4 * width)),
            *(nn.GroupNorm(8, 4 * width), nn.SiLU()),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * 4 * width, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 64, 64) float32 in [-1, 1] to (B,) logits, positive where the subject is whole."""
        return self.head(self.layers(pixels)).squeeze(-1)  # type: ignore[no-any-return]


@cache
def the_wholeness_judge() -> WholenessJudge:
    """The committed network."""
    return load(WholenessJudge, WHOLENESS).float().eval()


@torch.no_grad()
def whole(images: Sequence[Image.Image]) -> list[bool]:
    """Whether each picture's subject is taken for a whole one."""
    pixels = to_pixels(np.stack([np.asarray(image.convert("RGB").resize((64, 64))) for image in images]))
    return (the_wholeness_judge()(pixels) > 0).tolist()
