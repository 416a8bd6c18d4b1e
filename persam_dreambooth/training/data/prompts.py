"""The prompts of a run: tokenized, or encoded before training so that the text encoders can be dropped."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from persam_dreambooth.torch_utils import TensorCache
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.families import Conditioning, Family


def prepare_prompts(family: Family, config: TrainingConfig, texts: Iterable[str]) -> dict[str, Conditioning]:
    """Return the conditioning of each text.

    With `--pre_compute_text_embeddings` the texts are encoded, and the family's text encoders are dropped; with
    `--training_cache` the result is also cached, keyed by tokens, text encoder weights and model flags.

    Args:
        family: on its device.
        config: the run's.
        texts: in any order; may repeat.
    """
    prompts = {text: family.tokenize(text) for text in dict.fromkeys(texts)}
    if not config.model.pre_compute_text_embeddings:
        return prompts
    cache = TensorCache(Path(config.data.training_cache) if config.data.training_cache else None)
    words = json.dumps([family.checksum("text"), asdict(config.model)], sort_keys=True)
    encoded = {text: _encoded(family, tokens, words, cache) for text, tokens in prompts.items()}
    family.drop_text_encoder()
    return encoded


@torch.no_grad()
def _encoded(family: Family, tokens: Conditioning, words: str, cache: TensorCache) -> Conditioning:
    digest = hashlib.sha256(words.encode())
    for name, value in sorted(tokens.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().cpu().numpy().data)
    kept = cache.get(digest.hexdigest())
    if kept is not None:
        return kept
    fresh = {name: value.cpu() for name, value in family.encode_prompt(tokens).items()}
    cache.put(digest.hexdigest(), fresh)
    return fresh
