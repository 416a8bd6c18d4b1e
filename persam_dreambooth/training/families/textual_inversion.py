"""Textual inversion in training: new tokens of the text encoders, learned beside LoRA (pivotal tuning) or alone.

Initialization and rescaling are those of diffusers' advanced scripts. Only the new rows are parameters (peft's
trainable tokens), so the other words' embeddings stay as they are.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from peft import TrainableTokensConfig
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor, nn
from transformers import T5EncoderModel

from persam_dreambooth import learned_tokens
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families.loading import unwrapped

PULL = 0.1
"""Exponent of the rescaling; 1 would give the rows the standard deviation of the others in every step."""


def learned_encoders(kinds: Mapping[str, Any], config: ModelConfig) -> tuple[str, ...]:
    """Return the names of the text encoders that get new tokens, of all with their classes; T5 only if asked for."""
    return tuple(name for name, kind in kinds.items() if kind is not T5EncoderModel or config.enable_t5_ti)


def insert_words(tokenizers: Sequence[Any], config: ModelConfig) -> tuple[dict[str, int], list[list[int]]]:
    """Add the words of `--token_abstraction` to a model's tokenizers.

    Returns:
        The words' numbers of tokens, the same for all tokenizers, and the tokens' ids of each.

    Raises:
        UserError: a tokenizer has such a token already, or `--initializer_concept` is empty.
    """
    count = config.num_new_tokens_per_abstraction
    count = count or max(len(_concept_ids(tokenizer, config)) for tokenizer in tokenizers)
    words = dict.fromkeys(config.new_words, count)
    try:
        return words, [learned_tokens.insert(tokenizer, words) for tokenizer in tokenizers]
    except ValueError as error:
        raise UserError(
            f"--token_abstraction {config.token_abstraction}: {error}; choose another word for the subject"
        ) from error


def _concept_ids(tokenizer: Any, config: ModelConfig) -> list[int]:
    ids: list[int] = tokenizer(config.initializer_concept, add_special_tokens=False).input_ids
    if not ids:
        raise UserError(f"--initializer_concept {config.initializer_concept!r} has no tokens; give a word such as dog")
    return ids


@dataclass(frozen=True)
class NewTokens:
    """The tokens that a run learns.

    Attributes:
        words: their numbers of tokens, in the order of the rows.
        deviations: standard deviation of each text encoder's embeddings, a scalar, by the encoder's name.
    """

    words: Mapping[str, int]
    deviations: Mapping[str, Tensor]

    @classmethod
    def begin(cls, encoders: Mapping[str, Any], tokenizers: Mapping[str, Any], config: ModelConfig) -> Self:
        """Add the tokens to text encoders and tokenizers, by the encoders' names, and make their rows trainable.

        The rows are normal random numbers with the standard deviation of all embeddings, or copies of the rows of
        `--initializer_concept`, in turn.
        """
        words, all_ids = insert_words([tokenizers[name] for name in encoders], config)
        deviations = dict[str, Tensor]()
        for ids, (name, encoder) in zip(all_ids, encoders.items(), strict=True):
            embeddings = learned_tokens.enlarge(encoder, tokenizers[name])
            # transformers' new rows are the mean and a tiny random part. Without that part, the deviation is the
            # same in every process and after resuming.
            embeddings[ids] = embeddings[: min(ids)].mean(0)
            deviations[name] = embeddings[: len(tokenizers[name])].float().std()  # T5 has more rows than tokens
            if config.initializer_concept is None:
                drawn = torch.randn(len(ids), embeddings.shape[1]) * deviations[name]
                embeddings[ids] = drawn.to(embeddings.dtype)
            else:
                concept = _concept_ids(tokenizers[name], config)
                embeddings[ids] = embeddings[[concept[number % len(concept)] for number in range(len(ids))]]
            _learn_rows(encoder, ids)
        return cls(words, deviations)

    @torch.no_grad()
    def rescale(self, encoders: Mapping[str, nn.Module]) -> None:
        """Pull the standard deviation s' of each encoder's new rows towards that of all, s: e <- e (s / s')^0.1."""
        for name, encoder in encoders.items():
            rows = _rows(encoder)
            rows.mul_((self.deviations[name].to(rows) / rows.std()) ** PULL)

    def save(self, folder: Path, encoders: Mapping[str, nn.Module], dtype: torch.dtype = torch.float32) -> None:
        """Write `learned_embeds.safetensors`."""
        rows = {_key(part): _rows(part).to(dtype) for part in encoders.values()}
        learned_tokens.save(folder, self.words, rows)

    @torch.no_grad()
    def load(self, folder: Path, encoders: Mapping[str, nn.Module]) -> None:
        """Load what `save` wrote.

        Raises:
            ValueError: the file has other words.
        """
        words, rows = learned_tokens.read(folder)
        if words != self.words:
            raise ValueError(f"the learned words are {', '.join(words)}, not {', '.join(self.words)}")
        for encoder in encoders.values():
            _rows(encoder).copy_(rows[_key(encoder)])


def _learn_rows(encoder: Any, ids: list[int]) -> None:
    """Make the rows of these tokens trainable, and no others."""
    stack = encoder.get_encoder() if isinstance(encoder, T5EncoderModel) else None
    if stack is not None:
        # The layer that T5 computes with may have a first name, under which alone peft would find and replace it.
        stack.set_input_embeddings(copy.copy(stack.get_input_embeddings()))
    config = TrainableTokensConfig(token_indices=ids, target_modules=["token_embedding", "embed_tokens"])
    with warnings.catch_warnings():
        # For merging, which never happens here: T5 has its layer under two names.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings", UserWarning)
        encoder.add_adapter(config)


def _rows(encoder: nn.Module) -> nn.Parameter:
    """Return the rows of the new tokens, (tokens, channels)."""
    (layer,) = (module for module in unwrapped(encoder).modules() if isinstance(module, TrainableTokensLayer))
    rows: nn.Parameter = layer.trainable_tokens_delta["default"]
    return rows


def _key(encoder: nn.Module) -> str:
    return learned_tokens.KEYS[type(unwrapped(encoder)).__name__]
