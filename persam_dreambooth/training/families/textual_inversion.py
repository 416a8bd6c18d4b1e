"""Textual inversion in training (pivotal tuning): new tokens of the text encoders, learned beside LoRA.

Initialization and rescaling are those of diffusers' advanced scripts. Only the new rows are parameters (peft's
trainable tokens), so the other words' embeddings stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from peft import TrainableTokensConfig
from torch import Tensor, nn

from persam_dreambooth import learned_tokens
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families.loading import unwrapped

PULL = 0.1
"""Exponent of the rescaling; 1 would give the rows the standard deviation of the others in every step."""


def insert_words(tokenizer: Any, config: ModelConfig) -> tuple[dict[str, int], list[int]]:
    """Add the words of `--token_abstraction` to a tokenizer; returns their numbers of tokens, and the tokens' ids.

    Raises:
        UserError: the tokenizer has such a token already, or `--initializer_concept` is empty.
    """
    count = config.num_new_tokens_per_abstraction or len(_concept_ids(tokenizer, config))
    words = dict.fromkeys(config.new_words, count)
    try:
        return words, learned_tokens.insert(tokenizer, words)
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
        `--initializer_concept`.
        """
        words, deviations = dict[str, int](), dict[str, Tensor]()
        for name, encoder in encoders.items():
            words, ids = insert_words(tokenizers[name], config)
            embeddings = learned_tokens.enlarge(encoder, tokenizers[name])
            # transformers' new rows are the mean and a tiny random part. Without that part, the deviation is the
            # same in every process and after resuming.
            embeddings[ids] = embeddings[: min(ids)].mean(0)
            deviations[name] = embeddings.float().std()
            if config.initializer_concept is None:
                drawn = torch.randn(len(ids), embeddings.shape[1]) * deviations[name]
                embeddings[ids] = drawn.to(embeddings.dtype)
            else:
                concept = embeddings[_concept_ids(tokenizers[name], config)]
                embeddings[ids] = concept.repeat(len(ids) // len(concept), 1)
            encoder.add_adapter(TrainableTokensConfig(token_indices=ids, target_modules=["token_embedding"]))
        return cls(words, deviations)

    @torch.no_grad()
    def rescale(self, encoders: Mapping[str, nn.Module]) -> None:
        """Pull the standard deviation s' of each encoder's new rows towards that of all, s: e <- e (s / s')^0.1."""
        for name, encoder in encoders.items():
            rows = _rows(encoder)
            rows.mul_((self.deviations[name].to(rows) / rows.std()) ** PULL)

    def save(self, folder: Path, encoders: Mapping[str, nn.Module], dtype: torch.dtype = torch.float32) -> None:
        """Write `learned_embeds.safetensors`."""
        learned_tokens.save(folder, self.words, {name: _rows(part).to(dtype) for name, part in encoders.items()})

    @torch.no_grad()
    def load(self, folder: Path, encoders: Mapping[str, nn.Module]) -> None:
        """Load what `save` wrote.

        Raises:
            ValueError: the file has other words.
        """
        words, rows = learned_tokens.read(folder)
        if words != self.words:
            raise ValueError(f"the learned words are {', '.join(words)}, not {', '.join(self.words)}")
        for name, encoder in encoders.items():
            _rows(encoder).copy_(rows[name])


def _rows(encoder: nn.Module) -> nn.Parameter:
    """Return the rows of the new tokens, (tokens, channels)."""
    rows: nn.Parameter = unwrapped(encoder).get_input_embeddings().trainable_tokens_delta["default"]
    return rows
