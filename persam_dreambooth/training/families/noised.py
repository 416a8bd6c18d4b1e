"""What passes between the loop and a family: a prompt's tensors, and latents on their way to noise."""

from dataclasses import dataclass

from torch import Tensor

Conditioning = dict[str, Tensor]
"""What a family needs to know of one prompt; every tensor has a leading dimension of 1."""


@dataclass(frozen=True, eq=False)
class Noised:
    """Latents on their way to noise.

    Attributes:
        noisy: (B, C, h, w), what the model sees.
        timesteps: (B,), int64 in diffusion and float32 in flow matching.
        target: (B, C, h, w), what it should say.
        weight: (B,) float32, what each picture's loss is multiplied by for its share of noise; None is 1.
        crop: (B, 6) int64, see `crop_of`; None where nobody asks where the latents were cut out.
    """

    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    weight: Tensor | None = None
    crop: Tensor | None = None

    def first(self, count: int) -> "Noised":
        """The first `count` of the batch, views of the same tensors."""
        weight = None if self.weight is None else self.weight[:count]
        crop = None if self.crop is None else self.crop[:count]
        return Noised(self.noisy[:count], self.timesteps[:count], self.target[:count], weight, crop)
