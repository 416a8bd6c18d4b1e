"""One batch's loss: noise, prediction, latent mask, and the terms that are logged."""

from typing import Any

from torch import Tensor

from persam_dreambooth.training import losses
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.families import Family


def training_loss(family: Family, batch: dict[str, Any], config: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """One batch's loss.

    Args:
        family: the model.
        batch: as `collate` makes it, `[instances..., class images...]`.
        config: masks, weights, noise.

    Returns:
        The scalar to differentiate, and its terms, detached, for the log: `loss`,
        `instance_loss` (masked) and, with class images, `prior_loss` (never masked).
    """
    latents = family.encode_latents(batch["pixels"])
    noised = family.add_noise(latents, config.optimization.offset_noise)
    prediction = family.predict(noised, family.encode_prompt(batch["prompt"]))
    count = len(batch["mask"])
    weight = None
    if config.mask.masked_loss:
        mask = config.mask
        latent_mask = losses.latent_mask(
            batch["mask"], (latents.shape[-2], latents.shape[-1]), mask.mask_downsample, mask.mask_dilation
        )
        weight = losses.loss_weight(latent_mask, mask.background_weight)
    snr_weight = None
    if config.optimization.snr_gamma is not None:
        snr = family.snr(noised.timesteps[:count])
        snr_weight = losses.min_snr_weight(snr, config.optimization.snr_gamma, family.prediction_type)
    loss = losses.masked_mse(
        prediction[:count], noised.target[:count], weight, config.mask.mask_normalization, snr_weight
    )
    terms = {"instance_loss": loss.detach()}
    if len(prediction) > count:
        prior = losses.masked_mse(prediction[count:], noised.target[count:])
        terms["prior_loss"] = prior.detach()
        loss = loss + config.data.prior_loss_weight * prior
    return loss, {"loss": loss.detach()} | terms
