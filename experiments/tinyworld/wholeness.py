"""Wholeness: does an image show one whole subject, with the right number of heads, limbs, wheels and spouts?

A classifier of drawn pictures and their damaged twins (`damages.py`). It shares neither weights nor training pictures
with the models that generate images.
"""

from collections.abc import Sequence
from functools import cache

import torch
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import Tensor, nn

from corpus import image_pixels
from judge import Block
from loading import load
from models import WHOLENESS
from world import SIDE


class WholenessJudge(nn.Module, PyTorchModelHubMixin):
    """A convolutional network whose last layer sees where in the picture the parts are."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, width, 4, 2, 1), Block(width, width)),
            *(nn.Conv2d(width, 2 * width, 3, 2, 1), Block(2 * width, 2 * width)),
            *(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), Block(4 * width, 4 * width), Block(4 * width, 4 * width)),
            *(nn.Conv2d(4 * width, 2 * width, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.Dropout(0.2)),
            *(nn.Linear(2 * width * (SIDE // 16) ** 2, 4 * width), nn.SiLU(), nn.Linear(4 * width, 1)),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B,) logits, positive for a whole subject, from (B, 3, side, side) float32 in [-1, 1]."""
        logits: Tensor = self.layers(pixels)
        return logits[:, 0]


@cache
def the_wholeness_judge() -> WholenessJudge:
    """Load the committed network."""
    return load(WholenessJudge, WHOLENESS).float().eval()


@torch.no_grad()
def whole(images: Sequence[Image.Image]) -> list[bool]:
    """Return for each image whether its subject is whole."""
    pixels = image_pixels(images)
    return (the_wholeness_judge()(pixels) > 0).tolist()
