"""A family whose prompts are messages to a language model, in a template of the pipeline or of the model."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families.base import Conditioning
from persam_dreambooth.training.families.flow_matching import FlowMatching
from persam_dreambooth.training.families.loading import load_tokenizer, token_ids
from persam_dreambooth.training.families.phrases import PhraseFinder, in_message


class ChatPrompts(FlowMatching):
    """A family with one text encoder, a language model.

    Attributes:
        start: number of the message's first tokens that the denoiser does not see.
        padded: whether messages are padded to the full length.
    """

    flags: ClassVar[frozenset[str]] = FlowMatching.flags | {"attention_loss_weight"}
    start: ClassVar[int] = 0
    padded: ClassVar[bool] = False
    tokenizer: Any

    @classmethod
    @abstractmethod
    def message(cls, tokenizer: Any, prompt: str) -> str:
        """Return the message with a prompt."""

    @classmethod
    def read(cls, tokenizer: Any, prompt: str, length: int, **more: Any) -> Any:
        """Tokenize a prompt's message, cut after `length` tokens beyond `start`; `more` is for the tokenizer."""
        return token_ids(tokenizer, cls.message(tokenizer, prompt), cls.start + length, cls.padded, **more)

    def asked(self, prompt: str) -> str:
        """Return the message."""
        return self.message(self.tokenizer, prompt)

    def tokenize(self, prompt: str) -> Conditioning:
        """Tokenize the message: ids and attention mask, (1, length) int64 each."""
        tokens = self.read(self.tokenizer, prompt, self.length)
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    @classmethod
    def phrase_finder(cls, config: ModelConfig) -> PhraseFinder:
        """Find phrases in the message, by the letters of its tokens."""
        tokenizer = load_tokenizer("tokenizer", config, cls.tokenizer_class)
        length = config.max_sequence_length or cls.max_sequence_length

        def offsets(prompt: str) -> Sequence[Sequence[int]]:
            read = cls.read(tokenizer, prompt, length, return_offsets_mapping=True)
            found: list[list[int]] = read["offset_mapping"][0].tolist()
            return found[cls.start :]

        return in_message(partial(cls.message, tokenizer), offsets)
