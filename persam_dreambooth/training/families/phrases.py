"""Positions of a phrase's tokens in a prompt, among the tokens to which the denoiser attends."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from persam_dreambooth.learned_tokens import spelled_out
from persam_dreambooth.training.families.loading import token_ids

PhraseFinder = Callable[[str, str], tuple[int, ...]]
"""Takes a prompt and the words of a phrase; returns the sorted positions of all its occurrences."""
_MARK = "\0"


def by_tokens(tokenizers: Sequence[tuple[Any, int | None]]) -> PhraseFinder:
    """Find a phrase by its tokens, for tokenizers to which a word has the same tokens everywhere (CLIP's, T5's).

    Args:
        tokenizers: of each part of the denoiser's tokens in turn, with the length to which it pads and cuts prompts.
    """

    def find(prompt: str, words: str) -> tuple[int, ...]:
        places, start = list[int](), 0
        for tokenizer, length in tokenizers:
            tokens = token_ids(tokenizer, spelled_out(tokenizer, prompt), length).input_ids[0].tolist()
            places += [start + place for place in token_places(tokenizer, tokens, spelled_out(tokenizer, words))]
            start += len(tokens)
        return tuple(places)

    return find


def token_places(tokenizer: Any, tokens: Sequence[int], words: str) -> tuple[int, ...]:
    """Return the positions among a prompt's tokens of some words' tokens, for all their occurrences."""
    wanted = tokenizer(words, add_special_tokens=False).input_ids
    starts = (start for start in range(len(tokens)) if wanted and tokens[start : start + len(wanted)] == wanted)
    return tuple(sorted({start + number for start in starts for number in range(len(wanted))}))


def in_message(template: Callable[[str], str], offsets: Callable[[str], Sequence[Sequence[int]]]) -> PhraseFinder:
    """Find a phrase by its letters, in a prompt that a template turns into a message to a language model.

    Such a model's tokens depend on what is beside a word (a space, a quotation mark), so that they are found by the
    letters that they stand for. Words match in any case, and whole words only; the template's own words do not.

    Args:
        template: the message with a prompt.
        offsets: of a prompt's message: of each token to which the denoiser attends, the begin and end of its letters
            in the message; equal for padding and other tokens without letters.
    """
    before, after = template(_MARK).split(_MARK)

    def find(prompt: str, words: str) -> tuple[int, ...]:
        message = template(prompt)
        own = message[: len(message) - len(after)]
        forms = {unicodedata.normalize(form, words) for form in ("NFC", "NFD")}  # a folder on a Mac has NFD
        patterns = [r"\s+".join(map(re.escape, form.split())) for form in forms if form.split()]
        found = [re.compile(rf"(?<!\w){pattern}(?!\w)", re.IGNORECASE) for pattern in patterns]
        spans = [
            match.span()
            for pattern in found
            for match in pattern.finditer(own, len(before))
            if not unicodedata.category(own[match.end() :][:1] or " ").startswith("M")  # an accent: the word goes on
        ]
        return tuple(
            place
            for place, (begin, end) in enumerate(offsets(prompt))
            if any(begin < stop and end > start for start, stop in spans)
        )

    return find
