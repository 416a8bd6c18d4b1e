"""A detector of all kinds that a picture shows, used to find an uninvited companion.

The judge names one kind per picture. Here each kind is detected separately, so that a picture of a dog beside a clock
shows both. The detector shares neither weights nor training pictures with the generating models.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import Tensor, nn

from corpus import image_pixels
from judge import Block
from loading import load
from models import DETECTOR
from recipes import KIND_NAMES


class KindDetector(nn.Module, PyTorchModelHubMixin):
    """A convolutional network of 0.5 million weights that pools each kind's evidence over the picture."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, width, 4, 2, 1), Block(width, width)),
            *(nn.Conv2d(width, 2 * width, 3, 2, 1), Block(2 * width, 2 * width)),
            *(nn.Conv2d(2 * width, 3 * width, 3, 2, 1), Block(3 * width, 3 * width)),
            nn.Conv2d(3 * width, len(KIND_NAMES), 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, 8) logits in the order of `recipes.KIND_NAMES`, from (B, 3, side, side) float32 in [-1, 1]."""
        evidence: Tensor = self.layers(pixels)
        return evidence.flatten(2).logsumexp(-1) - np.log(evidence[0, 0].numel())


@cache
def the_detector() -> KindDetector:
    """Load the committed detector."""
    return load(KindDetector, DETECTOR).float().eval()


@torch.no_grad()
def shows(images: Sequence[Image.Image], kind: str) -> list[bool]:
    """Return for each picture whether it shows a subject of `kind`, whatever else it shows."""
    pixels = image_pixels(images)
    return (the_detector()(pixels)[:, KIND_NAMES.index(kind)] > 0).tolist()
