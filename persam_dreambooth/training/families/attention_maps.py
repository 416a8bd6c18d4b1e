"""Attention to the words of a prompt, by position in the picture: what the attention loss compares with masks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class AttentionMaps(ABC):
    """Attention that some layers of a denoiser computed in one prediction.

    Attributes:
        level: number of halvings from the latents to the maps.
    """

    level: int

    @abstractmethod
    def probabilities(self, count: int, positions: int) -> Tensor:
        """Return the attention of each position to each token of the prompt, averaged over heads and layers.

        Args:
            count: number of images, from the first of the batch.
            positions: h w, the number in each image.

        Returns:
            (count, h w, length) float32; the rows sum to 1, or to less where positions attend to more than the prompt.
        """

    def maps(self, places: Sequence[Sequence[Sequence[int]]], size: tuple[int, int]) -> Tensor:
        """Return each position's attention to some words, divided by the maximum over positions.

        Args:
            places: for each of the first B pictures and each of its regions, positions of the words' tokens.
            size: (h, w) of the latents.

        Returns:
            (R, 1, h', w') float32 in [0, 1], picture by picture, R the number of all regions.
        """
        height, width = (-(-side // 2**self.level) for side in size)
        found = self.probabilities(len(places), height * width)
        ours = torch.stack(
            [rows[:, list(words)].mean(-1) for rows, regions in zip(found, places, strict=True) for words in regions]
        )
        ours = ours / ours.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return ours.view(-1, 1, height, width)
