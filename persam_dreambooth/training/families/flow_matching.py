"""Flow matching: the model predicts the velocity along straight lines between latents and noise."""

from typing import Any, ClassVar, Final

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import ModelConfig, OptimizationConfig, TrainingConfig
from persam_dreambooth.training.families.base import Family, Noised

PATCH: Final = 2
"""Side of a transformer's token in latent cells, the same in all of these models."""


class FlowMatching(Family):
    """A pipeline that was trained by rectified flow (arXiv 2403.03206, section 3).

    Attributes:
        weighting_scheme: default of the flag, as in diffusers' script for this family.
        precondition_outputs: likewise.
        max_sequence_length: likewise; length of prompts, in tokens.
        longest_sequence: maximum of the flag that the pipeline allows, in tokens.
    """

    scheduler_class: ClassVar[Any] = FlowMatchEulerDiscreteScheduler
    flags: ClassVar[frozenset[str]] = frozenset(
        {"logit_mean", "logit_std", "max_sequence_length", "mode_scale", "weighting_scheme"}
    )
    weighting_scheme: ClassVar[str] = "none"
    precondition_outputs: ClassVar[bool] = False
    max_sequence_length: ClassVar[int]
    longest_sequence: ClassVar[int] = 512

    prediction_type: str = "flow"
    scheduler: Any

    def __init__(self, config: ModelConfig, **parts: Any) -> None:
        self.length = config.max_sequence_length or self.max_sequence_length
        super().__init__(config, **parts)

    @classmethod
    def check(cls, config: TrainingConfig) -> None:
        """Also refuse a sequence length above the pipeline's maximum."""
        super().check(config)
        length, longest = config.model.max_sequence_length, cls.longest_sequence
        if (length or 0) > longest:
            raise UserError(f"--max_sequence_length {length} must be at most {longest}")

    @classmethod
    def side_unit_of(cls, config: ModelConfig) -> int:
        """Side of one token of the transformer, in pixels."""
        return PATCH * cls.cell_of(config)

    def add_noise(self, latents: Tensor, settings: OptimizationConfig) -> Noised:
        """Draw noise, then float32 timesteps, on the CPU as in diffusers' scripts.

        Preconditioned outputs are latents, x0' = x - sigma v, where x = x0 + sigma (noise - x0) and v is
        the prediction. Since x0' - x0 = sigma (noise - x0 - v), the squared error of x0' is sigma^2
        times that of v, so that it is enough to multiply the weight by sigma^2.
        """
        noise = self.draw_noise(latents)
        scheme = settings.weighting_scheme or self.weighting_scheme
        drawn = compute_density_for_timestep_sampling(
            scheme, len(latents), settings.logit_mean, settings.logit_std, settings.mode_scale
        )
        count = self.scheduler.config.num_train_timesteps
        steps = (drawn * count).long().clamp(0, count - 1)  # a far logit_mean or mode_scale draws 1, or beyond
        sigmas = self.scheduler.sigmas[steps].to(latents.device)  # (B,)
        weight = compute_loss_weighting_for_sd3(scheme, sigmas)
        preconditioned = settings.precondition_outputs
        if self.precondition_outputs if preconditioned is None else preconditioned:
            weight = weight * sigmas**2
        noisy, target = self._between(latents, noise, sigmas.to(latents.dtype).view(-1, 1, 1, 1))
        return Noised(noisy, self.scheduler.timesteps[steps].to(latents.device), target, weight=weight)

    def draw_noise(self, latents: Tensor) -> Tensor:
        """Draw noise of the latents' shape, (B, C, h, w)."""
        return torch.randn_like(latents)

    def _between(self, latents: Tensor, noise: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point at sigma on the line (1 is the noise) and the velocity there, both (B, C, h, w)."""
        return (1.0 - sigmas) * latents + sigmas * noise, noise - latents

    def sampler(self, name: str, config: Any) -> Any:
        """Return flow matching's only scheduler, whatever the name."""
        return FlowMatchEulerDiscreteScheduler.from_config(config)
