"""One batch's loss: noise, prediction, latent mask, and the terms that are logged."""

from typing import Any

from torch import Tensor

from persam_dreambooth.training import losses
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.families import Family


def training_loss(family: Family, batch: dict[str, Any], config: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """One batch's loss.

    Args:
        family: the model; with a background prior one that was told to `keep_base`.
        batch: as `collate` makes it, `[instances..., class images...]`.
        config: masks, weights, noise.

    Returns:
        The scalar to differentiate, and its terms, detached, for the log: `loss`,
        `instance_loss` (masked), with a background prior `background_prior_loss` (outside the
        mask) and with class images `prior_loss` (never masked).
    """
    mask, count = config.mask, len(batch["mask"])
    latents = family.encode_latents(batch["pixels"])
    noised = family.add_noise(latents, config.optimization.offset_noise)
    base = None
    if mask.background_prior_weight > 0:
        # The first of the two predictions, so that the other's activations are not yet in memory.
        base = family.predict_base(noised.first(count), batch["class_prompt"])
    prediction = family.predict(noised, family.encode_prompt(batch["prompt"]))
    instances, size = prediction[:count], (latents.shape[-2], latents.shape[-1])
    latent_mask = losses.latent_mask(batch["mask"], size, mask.mask_downsample, mask.mask_dilation)
    weight = losses.loss_weight(latent_mask, mask.background_weight) if mask.masked_loss else None
    photo_weight = batch["weight"]
    if config.optimization.snr_gamma is not None:
        snr = family.snr(noised.timesteps[:count])
        photo_weight = photo_weight * losses.min_snr_weight(snr, config.optimization.snr_gamma, family.prediction_type)
    loss = losses.masked_mse(instances, noised.target[:count], weight, mask.mask_normalization, photo_weight)
    terms = {"instance_loss": loss.detach()}
    if base is not None:
        background = losses.background_prior(instances, base, latent_mask, photo_weight)
        terms["background_prior_loss"] = background.detach()
        loss = loss + mask.background_prior_weight * background
    if len(prediction) > count:
        prior = losses.masked_mse(prediction[count:], noised.target[count:])
        terms["prior_loss"] = prior.detach()
        loss = loss + config.data.prior_loss_weight * prior
    return loss, {"loss": loss.detach()} | terms
