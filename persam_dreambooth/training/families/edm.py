"""EDM's noise (arXiv 2206.00364, section 5): the loss is that of the clean image, at noise levels sigma."""

from typing import Any

import torch
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from torch import Tensor

from persam_dreambooth.training.families.base import Noised


def add_noise(levels: Any, latents: Tensor, noise: Tensor) -> Noised:
    """Draw noise levels on the CPU, as in diffusers' script, and add the noise.

    With x = x0 + sigma noise, EDM's estimate of x0 is D = c_skip x + c_out F(c_in x), where F is the denoiser, and its
    loss w (D - x0)^2. The target of F is therefore (x0 - c_skip x) / c_out, and the weight w c_out^2.

    Args:
        levels: table of noise levels, an EulerDiscreteScheduler for a base model trained by DDPM, an
            EDMEulerScheduler for one trained with EDM's noise.
        latents: x0, (B, C, h, w).
        noise: of the same shape.

    Returns:
        `noisy` is c_in x, the denoiser's input.
    """
    drawn = torch.randint(0, levels.config.num_train_timesteps, (len(latents),))
    sigmas = levels.sigmas[drawn].to(latents).view(-1, 1, 1, 1)
    noisy = latents + sigmas * noise
    if isinstance(levels, EDMEulerScheduler):
        one, zero = torch.ones_like(sigmas), torch.zeros_like(sigmas)
        c_skip, c_out = (levels.precondition_outputs(*parts, sigmas) for parts in ((one, zero), (zero, one)))
        target, weight = (latents - c_skip * noisy) / c_out, c_out**2  # diffusers' script: w = 1
        given = levels.precondition_inputs(noisy, sigmas)
    else:
        target, weight = _of_ddpm(levels.config.prediction_type, latents, noise, sigmas)
        given = noisy / (sigmas**2 + 1) ** 0.5
    timesteps = levels.timesteps[drawn].to(latents.device)
    return Noised(given, timesteps, target, weight=weight.flatten().float())


def _of_ddpm(prediction_type: str, latents: Tensor, noise: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """Return the denoiser's target, (B, C, h, w), and w c_out^2, (B, 1, 1, 1), for w = sigma^-2.

    For epsilon, D = x - sigma F, so that F's target is the noise and its weight 1. For v prediction,
    D = x / (sigma^2 + 1) - sigma / sqrt(sigma^2 + 1) F.
    """
    if prediction_type == "epsilon":
        return noise, torch.ones_like(sigmas)
    return (noise - sigmas * latents) / (sigmas**2 + 1) ** 0.5, 1 / (sigmas**2 + 1)
