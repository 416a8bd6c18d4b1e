"""The attention loss of Break-A-Scene (arXiv 2305.16311): the identifier's attention should match the mask.

The UNet's cross-attention layers are not changed: hooks record the queries and keys that they compute, and the
probabilities are recomputed from those. So the prediction is bitwise the same with any attention implementation, and
a checkpointed block computes the same in the backward pass as in the forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from persam_dreambooth.errors import UserError
from persam_dreambooth.training import losses
from persam_dreambooth.training.config import MaskConfig, ModelConfig
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.data.dataset import Batch, InstancePhoto
from persam_dreambooth.training.families.loading import token_ids, unwrapped

LEVEL: Final = 2
"""Number of halvings of the paper's maps: 16 x 16 for 64 x 64 latents."""


@dataclass
class CrossAttention:
    """Queries and keys that cross-attention layers of one resolution computed in one prediction.

    Attributes:
        layers: diffusers' `Attention` modules.
        level: number of halvings from the latents to their maps.
        queries: of each layer, (B, h w, heads channels).
        keys: of each layer, (B, length, heads channels).
    """

    layers: Sequence[Any]
    level: int
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)

    def probabilities(self, count: int) -> Tensor:
        """Average over heads and layers, for the first `count` pictures: (count, h w, length), rows sum to 1."""
        means = []
        for layer, query, key in zip(self.layers, self.queries, self.keys, strict=True):
            by_head = (layer.head_to_batch_dim(states[:count].float()) for states in (query, key))
            with torch.autocast(query.device.type, enabled=False):
                means.append(layer.get_attention_scores(*by_head).unflatten(0, (count, -1)).mean(1))
        return torch.stack(means).mean(0)

    def maps(self, identifiers: Sequence[Sequence[int]], size: tuple[int, int]) -> Tensor:
        """Return each position's attention to the identifier, divided by the maximum over positions.

        Args:
            identifiers: positions of the identifier's tokens in each of the first B prompts.
            size: (h, w) of the latents.

        Returns:
            (B, 1, h', w') float32 in [0, 1].
        """
        found = self.probabilities(len(identifiers))
        ours = torch.stack([rows[:, list(places)].mean(-1) for rows, places in zip(found, identifiers, strict=True)])
        ours = ours / ours.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        height, width = (-(-side // 2**self.level) for side in size)
        return ours.view(-1, 1, height, width)


@contextmanager
def recorded(unet: nn.Module) -> Iterator[CrossAttention]:
    """Record one prediction of the UNet into the `CrossAttention` inside the block.

    The layers are those whose maps are nearest to a quarter of the latents' side; the finer ones on a tie.
    """
    layers = _layers(unwrapped(unet))
    level = min(layers, key=lambda halvings: (abs(halvings - LEVEL), halvings))
    seen = CrossAttention(layers[level], level)
    with ExitStack() as stack:
        for layer in seen.layers:
            for module, kept in ((layer.to_q, seen.queries), (layer.to_k, seen.keys)):
                handle = module.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
                stack.callback(handle.remove)
        yield seen


def _layers(unet: Any) -> dict[int, list[Any]]:
    """Group a UNet's cross-attention layers, in their order, by the number of halvings of their maps."""
    depth, found = len(unet.down_blocks), dict[int, list[Any]]()
    blocks = [*enumerate(unet.down_blocks), (depth - 1, unet.mid_block)]
    blocks += [(depth - 1 - number, block) for number, block in enumerate(unet.up_blocks)]
    for level, block in blocks:
        for name, module in block.named_modules() if block is not None else ():
            if name.endswith("attn2"):
                found.setdefault(level, []).append(module)
    return found


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
        config: how prompts are cut.

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
    """Return the positions of a word's tokens, for all its occurrences, in a prompt as `tokenize` cuts it."""
    tokens = token_ids(tokenizer, prompt, config.tokenizer_max_length).input_ids[0].tolist()
    wanted = tokenizer(word, add_special_tokens=False).input_ids
    starts = (start for start in range(len(tokens)) if wanted and tokens[start : start + len(wanted)] == wanted)
    return tuple(sorted({start + number for start in starts for number in range(len(wanted))}))
