"""Textual inversion: new words, each of a few new tokens whose embeddings are learned (arXiv 2208.01618).

The tokens of a word are named TOK, TOK_1 and so on, so that diffusers' pipelines replace the word TOK in a prompt by
all of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import TextualInversionLoaderMixin
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AddedToken
from transformers.utils import logging

from persam_dreambooth.model_folder import EMBEDDINGS_NAME

KEYS = {"CLIPTextModel": "clip_l", "CLIPTextModelWithProjection": "clip_g", "T5EncoderModel": "t5"}
"""Names of the embeddings in the file by the class of their text encoder, those of diffusers' scripts."""
WORDS = "learned_words"
"""Metadata of the file: JSON of each word and its number of tokens, in the order of the rows."""
Words = Mapping[str, int]
"""The words and their numbers of tokens."""


def insert(tokenizer: Any, words: Words) -> list[int]:
    """Add the words' tokens to a tokenizer; return their ids.

    A word is found if it stands alone and in the same case, so that TOK is not found in "token".

    Raises:
        ValueError: the tokenizer has one of the tokens already.
    """
    names = [f"{word}_{number}" if number else word for word, count in words.items() for number in range(count)]
    taken = tokenizer.get_vocab().keys() & set(names)
    if taken:
        raise ValueError(f"the tokenizer has a token {min(taken)!r} already")
    later = set(names) - words.keys()  # without the space before them, which is a token to T5
    tokenizer.add_tokens(
        [AddedToken(name, normalized=False, single_word=True, lstrip=name in later) for name in names]
    )
    ids: list[int] = tokenizer.convert_tokens_to_ids(names)
    return ids


def enlarge(encoder: Any, tokenizer: Any, **settings: Any) -> Tensor:
    """Give a text encoder a row of embeddings for every token; return all rows, (tokens, channels).

    Args:
        encoder: of transformers.
        tokenizer: after `insert`.
        settings: of transformers' `resize_token_embeddings`.
    """
    rows = encoder.get_input_embeddings().weight.shape[0]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it explains at length how it draws the rows, which are replaced at once
    try:
        encoder.resize_token_embeddings(max(rows, len(tokenizer)), **settings)
    finally:
        logging.set_verbosity(verbosity)
    embeddings: Tensor = encoder.get_input_embeddings().weight.data
    return embeddings


def spelled_out(tokenizer: Any, prompt: str) -> str:
    """Replace each of the tokenizer's new words in a prompt by all of its tokens, as diffusers' pipelines do."""
    return str(TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer))


def save(folder: Path, words: Words, rows: Mapping[str, Tensor]) -> None:
    """Write `learned_embeds.safetensors`.

    Args:
        folder: of the file.
        words: in the order of the rows.
        rows: of each text encoder, by its name in `KEYS`: (tokens of all words, channels).
    """
    tensors = {key: value.detach().contiguous() for key, value in rows.items()}
    save_file(tensors, folder / EMBEDDINGS_NAME, {"format": "pt", WORDS: json.dumps(words)})


def read(folder: Path) -> tuple[dict[str, int], dict[str, Tensor]]:
    """Read what `save` wrote: words and rows.

    Raises:
        ValueError: the file does not name its words, or has not as many rows as they have tokens.
    """
    with safe_open(folder / EMBEDDINGS_NAME, framework="pt") as file:
        words: dict[str, int] = json.loads((file.metadata() or {}).get(WORDS, "{}"))
        rows = {key: file.get_tensor(key) for key in KEYS.values() if key in file.keys()}  # noqa: SIM118
    if not words or not rows or any(len(value) != sum(words.values()) for value in rows.values()):
        raise ValueError(f"{EMBEDDINGS_NAME} does not say which words its rows are")
    return words, rows


@torch.no_grad()
def attach(pipeline: Any, folder: Path) -> None:
    """Add the words of a folder's `learned_embeds.safetensors` to a pipeline's tokenizers and text encoders.

    Raises:
        ValueError: the file does not fit the pipeline.
    """
    words, rows = read(folder)
    names = {KEYS.get(type(part).__name__): name for name, part in pipeline.components.items()}
    for key, learned in rows.items():
        encoder = getattr(pipeline, names.get(key, ""), None)
        if encoder is None or encoder.get_input_embeddings().weight.shape[1] != learned.shape[1]:
            raise ValueError(f"{EMBEDDINGS_NAME} was learned with another kind of base model, by its {key}")
        tokenizer = getattr(pipeline, names[key].replace("text_encoder", "tokenizer"))
        ids = insert(tokenizer, words)
        embeddings = enlarge(encoder, tokenizer, mean_resizing=False)
        embeddings[ids] = learned.to(embeddings)
