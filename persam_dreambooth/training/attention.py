"""The attention loss of Break-A-Scene (arXiv 2305.16311): the identifier's attention should match the mask."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.training import losses
from persam_dreambooth.training.config import MaskConfig, ModelConfig
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.data.dataset import Batch, InstancePhoto
from persam_dreambooth.training.families.cross_attention import CrossAttention
from persam_dreambooth.training.families.loading import token_ids


def attention_loss(seen: CrossAttention, batch: Batch, size: tuple[int, int], config: MaskConfig) -> Tensor:
    """Mean squared difference between the identifier's attention and the latent mask.

    With A_i the attention probabilities of position i towards the identifier's tokens, averaged over tokens, heads and
    layers, and m the latent mask at their resolution: the mean over photos and positions of (A_i / max_j A_j - m_i)^2,
    each photo multiplied by its weight. Dividing by the maximum, with gradient, is how the authors' code normalizes.
    That code takes one pixel of the mask for each position; here the mask is downsampled as for the loss.

    Args:
        seen: attention of one prediction, instance photos first.
        batch: with the positions of the identifiers.
        size: (h, w) of the latents.
        config: how masks are downsampled.

    Returns:
        A scalar, float32.
    """
    maps = seen.maps(batch.identifiers, size)
    shape = maps.shape[-2], maps.shape[-1]
    mask = losses.latent_mask(batch.mask, shape, config.mask_downsample, config.mask_dilation)
    return losses.masked_mse(maps, mask, sample_weight=batch.weight)


def with_identifiers(
    instances: Sequence[InstancePhoto], concepts: Sequence[Concept], tokenizer: Any, config: ModelConfig
) -> list[InstancePhoto]:
    """Return the photos with the positions of their identifier's tokens.

    Args:
        instances: the run's photos.
        concepts: the subjects, with their identifiers.
        tokenizer: the pipeline's first; if there are two, they split words alike.
        config: how prompts are truncated.

    Raises:
        UserError: names the photo whose prompt's tokens do not contain the identifier's.
    """
    found = []
    for photo in instances:
        identifier = str(concepts[photo.concept].identifier)
        places = token_places(tokenizer, photo.prompt, identifier, config)
        if not places:
            raise UserError(
                f"the prompt of {photo.name}, {photo.prompt!r}, does not contain --identifier "
                f"{identifier} among the tokens that the model reads; write it there, or name another word"
            )
        found.append(replace(photo, identifier=places))
    return found


def token_places(tokenizer: Any, prompt: str, word: str, config: ModelConfig) -> tuple[int, ...]:
    """Return the positions of a word's tokens, for all its occurrences, in the truncated prompt."""
    tokens = token_ids(tokenizer, prompt, config.tokenizer_max_length).input_ids[0].tolist()
    wanted = tokenizer(word, add_special_tokens=False).input_ids
    starts = (start for start in range(len(tokens)) if wanted and tokens[start : start + len(wanted)] == wanted)
    return tuple(sorted({start + number for start in starts for number in range(len(wanted))}))
