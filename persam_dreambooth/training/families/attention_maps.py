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
    def shares(self, places: Sequence[Sequence[Sequence[int]]], positions: int) -> Tensor:
        """Return the attention of each position to some words, averaged over their tokens, heads and layers.

        Args:
            places: for each of the first B pictures and each of its regions, positions of the words' tokens.
            positions: h' w', the number in each picture.

        Returns:
            (R, h' w') float32 in [0, 1], picture by picture, R the number of all regions.
        """

    def maps(self, places: Sequence[Sequence[Sequence[int]]], size: tuple[int, int]) -> Tensor:
        """Return each position's attention to some words, divided by the maximum over positions.

        Args:
            places: as in `shares`.
            size: (h, w) of the latents.

        Returns:
            (R, 1, h', w') float32 in [0, 1], picture by picture.
        """
        height, width = (-(-side // 2**self.level) for side in size)
        ours = self.shares(places, height * width)
        ours = ours / ours.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return ours.view(-1, 1, height, width)
