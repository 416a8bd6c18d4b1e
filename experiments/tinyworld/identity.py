"""Re-identification: is this the right individual, or one of its look-alikes?

A network reads an individual's attributes off a picture: its two colours, its pattern and its accessory. It was
trained on other individuals than those of the experiments, and shares no weights with the models that draw.
Among an individual and 19 look-alikes of its kind it takes the one whose attributes are the likeliest together.
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
from models import IDENTITY
from subjects import ACCESSORIES, COLOURS, PATTERNS, Identity

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "main": tuple(COLOURS),
    "second": tuple(COLOURS),
    "pattern": PATTERNS,
    "accessory": ACCESSORIES,
}
"""What tells two individuals of a kind apart, and its possible values."""
LOOK_ALIKES = 20
"""The right one among them."""
CLOSE = 10
"""So many of the others differ in one attribute only."""


class AttributeReader(nn.Module, PyTorchModelHubMixin):
    """A convolutional network of 1.3 million weights with a head for each attribute."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, width, 4, 2, 1), Block(width, width)),
            *(nn.Conv2d(width, 2 * width, 3, 2, 1), Block(2 * width, 2 * width)),
            *(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), Block(4 * width, 4 * width), Block(4 * width, 4 * width)),
            *(nn.GroupNorm(8, 4 * width), nn.SiLU()),
        )
        self.where = nn.Conv2d(4 * width, 4, 1)
        self.heads = nn.ModuleDict({name: nn.Linear(20 * width, len(values)) for name, values in ATTRIBUTES.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, side, side) float32 in [-1, 1] to each attribute's logits, (B, number of its values)."""
        features = self.layers(pixels).flatten(2)  # (B, C, cells)
        weights = self.where(features.unsqueeze(-1)).squeeze(-1).softmax(-1)  # four places to look at
        seen = torch.cat([torch.einsum("bcn,bkn->bkc", features, weights).flatten(1), features.mean(-1)], dim=1)
        return {name: head(seen) for name, head in self.heads.items()}


@cache
def the_reader() -> AttributeReader:
    """The committed network."""
    return load(AttributeReader, IDENTITY).float().eval()


def look_alikes(identity: Identity) -> list[Identity]:
    """Twenty different individuals of one kind, `identity` first; always the same for one individual.

    Of the others, ten have all but one attribute in common with it, the rest are drawn by lot.
    """
    rng = np.random.default_rng(list("|".join(vars(identity).values()).encode()))
    close = [
        Identity(**vars(identity) | {name: value})
        for name, values in ATTRIBUTES.items()
        for value in values
        if value != vars(identity)[name]
    ]
    close = [other for other in close if other.main != other.second]
    chosen = [identity, *(close[place] for place in rng.permutation(len(close))[:CLOSE])]
    while len(chosen) < LOOK_ALIKES:
        main, second = rng.choice(ATTRIBUTES["main"], 2, replace=False)
        other = Identity(
            identity.kind, str(main), str(second), str(rng.choice(PATTERNS)), str(rng.choice(ACCESSORIES))
        )
        if other not in chosen:
            chosen.append(other)
    return chosen


@torch.no_grad()
def identified(images: Sequence[Image.Image], identity: Identity) -> list[bool]:
    """Whether each picture is taken for this individual among its look-alikes."""
    pixels = to_pixels(np.stack([np.asarray(image.convert("RGB").resize((64, 64))) for image in images]))
    likely = {name: logits.log_softmax(-1) for name, logits in the_reader()(pixels).items()}
    scores = [
        sum(likely[name][:, values.index(vars(other)[name])] for name, values in ATTRIBUTES.items())
        for other in look_alikes(identity)
    ]
    return (torch.stack(scores).argmax(0) == 0).tolist()  # type: ignore[arg-type]
