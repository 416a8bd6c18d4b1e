"""Data passed between the loop and a family: a prompt's tensors, and noised latents."""

from dataclasses import dataclass

from torch import Tensor

Conditioning = dict[str, Tensor]
"""Tensors of one prompt, as a family needs them; each has a leading dimension of 1."""


@dataclass(frozen=True, eq=False)
class Noised:
    """Noised latents.

    Attributes:
        noisy: (B, C, h, w), the denoiser's input.
        timesteps: (B,), int64 in diffusion and float32 in flow matching.
        target: (B, C, h, w), the regression target.
        weight: (B,) float32, factor of each picture's loss for its noise level; None is 1.
        crop: (B, 6) int64, see `Crop.conditioning`; None for families that do not use it.
    """

    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    weight: Tensor | None = None
    crop: Tensor | None = None

    def first(self, count: int) -> "Noised":
        """Return the first `count` of the batch, as views of the same tensors."""
        weight = None if self.weight is None else self.weight[:count]
        crop = None if self.crop is None else self.crop[:count]
        return Noised(self.noisy[:count], self.timesteps[:count], self.target[:count], weight, crop)
