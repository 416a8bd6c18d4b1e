"""Training loss of a batch: noise, prediction, latent mask, and the terms that are logged."""

from contextlib import nullcontext
from dataclasses import replace

from torch import Tensor

from persam_dreambooth.training import attention, losses
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data.dataset import Batch
from persam_dreambooth.training.families import Family, Noised


def training_loss(family: Family, batch: Batch, config: TrainingConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss of a batch.

    Args:
        family: the model; with a background prior, after `keep_base`.
        batch: instance photos, then class images.
        config: masks, weights, noise.

    Returns:
        The scalar to differentiate, and its terms, detached, for the log: `loss`,
        `instance_loss` (masked), with a background prior `background_prior_loss` (outside the
        mask), with an attention loss `attention_loss`, and with class images `prior_loss` (never masked).
    """
    mask, count = config.mask, len(batch.mask)
    latents = family.sample_latents(_moments(family, batch))
    noised = replace(family.add_noise(latents, config.optimization), crop=batch.crop)
    base = None
    if mask.background_prior_weight > 0:
        assert batch.class_prompt is not None, "TrainingConfig asks for a class prompt"
        # Predict with the base model first, before the trained model's activations take up memory.
        base = family.predict_base(noised.first(count), batch.class_prompt)
    with family.record_attention() if mask.attention_loss_weight > 0 else nullcontext() as seen:
        prediction = family.predict(noised, family.encode_prompt(batch.prompt))
    instances, size = prediction[:count], (latents.shape[-2], latents.shape[-1])
    latent_mask = losses.latent_mask(batch.mask, size, mask.mask_downsample, mask.mask_dilation)
    weight = losses.loss_weight(latent_mask, mask.background_weight) if mask.masked_loss else None
    photo_weight = batch.weight * _noise_weight(family, noised.first(count), config.optimization.snr_gamma)
    loss = losses.masked_mse(instances, noised.target[:count], weight, mask.mask_normalization, photo_weight)
    terms = {"instance_loss": loss.detach()}
    if base is not None:
        background = losses.background_prior(instances, base, latent_mask, photo_weight)
        terms["background_prior_loss"] = background.detach()
        loss = loss + mask.background_prior_weight * background
    if seen is not None:
        aside = attention.attention_loss(seen, batch, size, mask)
        terms["attention_loss"] = aside.detach()
        loss = loss + mask.attention_loss_weight * aside
    if len(prediction) > count:
        prior_weight = None if noised.weight is None else noised.weight[count:]
        prior = losses.masked_mse(prediction[count:], noised.target[count:], sample_weight=prior_weight)
        terms["prior_loss"] = prior.detach()
        loss = loss + config.data.prior_loss_weight * prior
    return loss, {"loss": loss.detach()} | terms


def _moments(family: Family, batch: Batch) -> Tensor:
    """Return the moments of the pictures' latents, (N, 2 C, h', w'): the cached ones, or encoded now."""
    if batch.moments is not None:
        return batch.moments
    assert batch.pixels is not None, "a batch holds pixels or moments"
    return family.encode_pixels(batch.pixels)


def _noise_weight(family: Family, noised: Noised, gamma: float | None) -> Tensor | float:
    """Return each photo's factor for its noise level, (B,): min-SNR's, or else the family's own; 1 without either."""
    if gamma is None:
        return 1.0 if noised.weight is None else noised.weight
    return losses.min_snr_weight(family.snr(noised.timesteps), gamma, family.prediction_type)
