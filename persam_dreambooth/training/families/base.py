"""What the loop asks of a family of models; it never asks which one it has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from persam_dreambooth.training.config import ModelConfig, OptimizationConfig, TrainingConfig

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


class Family(Protocol):
    """A text-to-image model in training."""

    base_model: str
    """As the user named it."""
    prediction_type: str
    """What the model predicts: "epsilon", "v_prediction" or "flow"."""
    dtype: torch.dtype
    """What `place` was given."""

    @classmethod
    def check(cls, config: TrainingConfig) -> None:
        """Refuse, before any weight is loaded, flags that it has no use for.

        Raises:
            UserError: the first of them.
        """
        ...

    @classmethod
    def cell_of(cls, config: ModelConfig) -> int:
        """Side of a latent cell in pixels, from the base model's configs alone."""
        ...

    @classmethod
    def side_unit_of(cls, config: ModelConfig) -> int:
        """What a picture's side must be a multiple of, in pixels, from the base model's configs alone."""
        ...

    @classmethod
    def even_unit_of(cls, config: ModelConfig) -> int:
        """Sides that are multiples of it are halved without a remainder in every layer; in pixels, as above."""
        ...

    def trained(self) -> dict[str, nn.Module]:
        """The modules with trainable weights, by their part's name; the first one is the denoiser."""
        ...

    def replace(self, parts: dict[str, nn.Module]) -> None:
        """Put the modules that Accelerate prepared in place of `trained()`."""
        ...

    def keep_base(self) -> None:
        """Make `predict_base` possible; called, if it is to be, on the weights as loaded, before `place`.

        What is kept here is frozen: no part of `trained()`, and in no checkpoint and no result.
        """
        ...

    def place(self, device: torch.device, dtype: torch.dtype, denoiser_device: torch.device | None = None) -> None:
        """Move all parts to a device and precision; trainable weights stay float32.

        Args:
            device: where they go.
            dtype: of all that is frozen.
            denoiser_device: where the denoiser goes, if elsewhere.
        """
        ...

    def asked(self, prompt: str) -> str:
        """The text that a prompt is tokenized as."""
        ...

    def tokenize(self, prompt: str) -> Conditioning:
        """A prompt as token tensors with a leading dimension of 1."""
        ...

    def encode_prompt(self, tokens: Conditioning) -> Conditioning:
        """Token tensors, or what this made of them before, to what `predict` takes.

        Returns:
            `embeds`, (B, length, channels), and what else the family's denoiser asks of a prompt; every
            tensor has a leading dimension of B.
        """
        ...

    def drop_text_encoder(self) -> None:
        """Free what `encode_prompt` needs for tokens; from now on it takes what it returned before only."""
        ...

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, 2 C, h, w), means and log variances of latents; draws no random number."""
        ...

    def sample_latents(self, moments: Tensor) -> Tensor:
        """What `encode_pixels` returned to (B, C, h, w) latents, sampled with the global random generator."""
        ...

    def stow_autoencoder(self) -> None:
        """Take the autoencoder off the device, where `encode_pixels` is not called again."""
        ...

    def checksum(self, part: str) -> str:
        """Words for the weights and precision of the autoencoder ("vae") or of the text encoders ("text")."""
        ...

    def add_noise(self, latents: Tensor, settings: OptimizationConfig) -> Noised:
        """Draw noise, then timesteps, with the global random generator; the result has no `crop` yet."""
        ...

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """The denoiser's word, (B, C, h, w), on what `encode_prompt` returned."""
        ...

    def predict_base(self, noised: Noised, tokens: Conditioning) -> Tensor:
        """What the denoiser said before any training, (B, C, h, w): no gradient, no random numbers drawn.

        The prompt comes as `encode_prompt` takes it, and is encoded as before any training too.
        `trained()` is afterwards as it was.
        """
        ...

    def snr(self, timesteps: Tensor) -> Tensor:
        """(B,) signal-to-noise ratio, for min-SNR; never asked of flow matching."""
        ...

    def sampler(self, name: str, config: Any) -> Any:
        """The scheduler of validation pictures: diffusers' class of this name, if the family has a choice.

        Args:
            name: of the class.
            config: of the pipeline's own scheduler.
        """
        ...

    def pipeline(self) -> Any:
        """A pipeline around the modules in training, without a safety checker, for validation pictures."""
        ...

    def save(self, folder: Path, skip_text_encoder: bool = False) -> None:
        """Write what was trained as the ecosystem reads it: a pipeline folder or a LoRA file."""
        ...

    def save_weights(self, folder: Path) -> None:
        """Write the trainable weights for a checkpoint, in full precision."""
        ...

    def load_weights(self, folder: Path) -> None:
        """Read what `save_weights` wrote."""
        ...
