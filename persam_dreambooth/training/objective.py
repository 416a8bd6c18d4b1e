"""Training loss of a batch: noise, prediction, latent mask, the attention loss, and the terms that are logged.

The attention loss is Break-A-Scene's (arXiv 2305.16311): the attention to a region's words should match its mask.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.training import losses
from persam_dreambooth.training.config import MaskConfig, ModelConfig, TrainingConfig
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.data.dataset import Batch, InstancePhoto
from persam_dreambooth.training.families import Family, Noised
from persam_dreambooth.training.families.attention_maps import AttentionMaps
from persam_dreambooth.training.families.phrases import PhraseFinder
from persam_dreambooth.training.prior_bank import PriorBank


def training_loss(
    family: Family,
    batch: Batch,
    config: TrainingConfig,
    unmasked: bool = False,
    bank: PriorBank | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss of a batch.

    Args:
        family: the model; with a background prior, after `keep_base`.
        batch: instance photos, then class images.
        config: masks, weights, noise.
        unmasked: take the loss over whole photos, except excluded pixels, without background prior and attention loss.
        bank: draws noise and keeps the base's predictions, while there is a background prior; None draws fresh noise.

    Returns:
        The scalar to differentiate, and its terms, detached, for the log: `loss`,
        `instance_loss` (masked), with a background prior `background_prior_loss` (outside the
        mask), with an attention loss `attention_loss`, and with class images `prior_loss` (never masked).
    """
    mask, count = config.mask if not unmasked else _without_masks(config.mask), len(batch.mask)
    # The base model predicts first, before the trained model's activations take up memory.
    noised, base = _noised_and_base(family, batch, config, mask.background_prior_weight > 0, bank)
    with family.record_attention() if mask.attention_loss_weight > 0 else nullcontext() as seen:
        prediction = family.predict(noised, family.encode_prompt(batch.prompt))
    instances, size = prediction[:count], (noised.noisy.shape[-2], noised.noisy.shape[-1])
    latent_mask = losses.latent_mask(batch.mask, size, mask.mask_downsample, mask.mask_dilation)
    weight = losses.loss_weight(latent_mask, mask.background_weight) if mask.masked_loss else None
    kept = None if batch.exclude is None else losses.kept_cells(batch.exclude, size)
    if kept is not None:
        weight = kept if weight is None else weight * kept
    photo_weight = batch.weight * _noise_weight(family, noised.first(count), config.optimization.snr_gamma)
    loss = losses.masked_mse(instances, noised.target[:count], weight, mask.mask_normalization, photo_weight)
    terms = {"instance_loss": loss.detach()}
    if base is not None:
        background = losses.background_prior(instances, base, latent_mask, photo_weight, kept)
        terms["background_prior_loss"] = background.detach()
        loss = loss + mask.background_prior_weight * background
    if seen is not None:
        aside = attention_loss(seen, batch, size, mask)
        terms["attention_loss"] = aside.detach()
        loss = loss + mask.attention_loss_weight * aside
    if len(prediction) > count:
        prior_weight = None if noised.weight is None else noised.weight[count:]
        prior = losses.masked_mse(prediction[count:], noised.target[count:], sample_weight=prior_weight)
        terms["prior_loss"] = prior.detach()
        loss = loss + config.data.prior_loss_weight * prior
    return loss, {"loss": loss.detach()} | terms


def _noised_and_base(
    family: Family, batch: Batch, config: TrainingConfig, with_prior: bool, bank: PriorBank | None
) -> tuple[Noised, Tensor | None]:
    """Return the noised batch and, for the background prior, the base model's prediction for its photos."""
    if with_prior and bank is not None:
        return bank.draw(family, batch, config.optimization)
    latents = family.sample_latents(_moments(family, batch))
    noised = replace(family.add_noise(latents, config.optimization), crop=batch.crop)
    if not with_prior:
        return noised, None
    assert batch.class_prompt is not None, "TrainingConfig asks for a class prompt"
    return noised, family.predict_base(noised.first(len(batch.mask)), batch.class_prompt)


UNMASKED = 3
"""Purpose of the seed of this draw, beside those in `loader`."""


def is_unmasked(config: TrainingConfig, step: int) -> bool:
    """Draw whether a step is trained without masks.

    The draw depends on `--seed` (0 if unset) and the step alone: it is the same in every process, in all batches of an
    accumulated step and after resuming, and changes no other random number.

    Args:
        config: `--unmasked_probability` and the seed.
        step: number of the optimizer step, from 0.
    """
    share = config.mask.unmasked_probability
    return share > 0 and bool(np.random.default_rng((config.optimization.seed or 0, UNMASKED, step)).random() < share)


def _without_masks(mask: MaskConfig) -> MaskConfig:
    """Return the settings of a step without masks."""
    return replace(
        mask,
        masked_loss=False,
        instance_mask_dir=None,
        region_mask_dir=None,
        reference_image=None,
        reference_mask=None,
        exclude_mask_dir=None,
        background_prior_weight=0.0,
        attention_loss_weight=0.0,
        unmasked_probability=0.0,
        cache_background_prior=None,
    )


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


def attention_loss(seen: AttentionMaps, batch: Batch, size: tuple[int, int], config: MaskConfig) -> Tensor:
    """Mean squared difference between the attention to a region's words and the region's latent mask.

    With A_i the attention probabilities of position i towards the words' tokens, averaged over tokens, heads and
    layers, and m the latent mask at their resolution: the mean over positions of (A_i / max_j A_j - m_i)^2, summed
    over a photo's regions, multiplied by the photo's weight; and the mean over photos. Dividing by the maximum, with
    gradient, and summing over regions is what the authors' code does. That code takes one pixel of the mask for each
    position; here the mask is downsampled as for the loss. Positions that an exclusion mask touches are left out, and
    so are regions of which the crop holds nothing.

    Args:
        seen: attention of one prediction, instance photos first.
        batch: with the positions of the tokens.
        size: (h, w) of the latents.
        config: how masks are downsampled.

    Returns:
        A scalar, float32.
    """
    maps = seen.maps(batch.places, size)
    shape = maps.shape[-2], maps.shape[-1]
    own = torch.tensor([number for number, places in enumerate(batch.places) for _ in places], device=maps.device)
    regions = batch.mask if batch.regions is None else batch.regions
    mask = losses.latent_mask(regions, shape, config.mask_downsample, config.mask_dilation)
    kept = None if batch.exclude is None else losses.kept_cells(batch.exclude, shape)[own]
    weight = batch.weight[own] * (mask.amax((1, 2, 3)) > 0)
    return losses.masked_mse(maps, mask, kept, sample_weight=weight) * (len(own) / len(batch.places))


def with_places(
    instances: Sequence[InstancePhoto], concepts: Sequence[Concept], family: type[Family], config: ModelConfig
) -> list[InstancePhoto]:
    """Return the photos with the positions of the tokens that name their regions.

    Args:
        instances: the run's photos.
        concepts: the subjects, with their identifiers.
        family: of the base model; knows its tokenizers.
        config: how prompts are truncated.

    Raises:
        UserError: names a photo and the words that its prompt's tokens do not contain.
    """
    find = family.phrase_finder(config)
    return [
        replace(
            photo,
            regions=tuple(
                replace(region, places=_places(find, photo, region.phrase, concepts[photo.concept].identifier))
                for region in photo.regions
            ),
        )
        for photo in instances
    ]


def _places(find: PhraseFinder, photo: InstancePhoto, phrase: str, identifier: str | None) -> tuple[int, ...]:
    """Return the positions of a region's words in a photo's prompt."""
    words = phrase or str(identifier)
    places = find(photo.prompt, words)
    if not places:
        named, remedy = (
            ("the phrase", "name its folder otherwise") if phrase else ("--identifier", "name another word")
        )
        raise UserError(
            f"the prompt of {photo.name}, {photo.prompt!r}, does not contain {named} {words} among the tokens that "
            f"the model reads; write it there, or {remedy}"
        )
    return places
