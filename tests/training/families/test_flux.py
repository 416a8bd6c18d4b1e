"""Flux.1: guidance as an input, tokens of 2 x 2 cells at their places, and prompts for CLIP and T5."""

import pytest
import torch

from persam_dreambooth.training.families.flux import Flux
from random_models import random_flux
from tests.training.families.calls import calls_of, numbered, upper_left
from tests.training.small import configure, make, tokenized


@pytest.mark.parametrize("guided", [True, False])
def test_guidance_is_an_input_of_dev_and_not_of_schnell(tmp_path, guided):
    random_flux(guidance=guided).save_pretrained(tmp_path)
    _, family = make(tmp_path, {"guidance_scale": 2.5})
    calls = calls_of(family.transformer)
    with torch.no_grad():
        family.predict(numbered(4, 6), family.encode_prompt(tokenized(family, ["a dog"] * 2)))
    _, given, _ = calls[0]
    assert given["guidance"] is None if not guided else given["guidance"].tolist() == [2.5, 2.5]
    assert given["timestep"].tolist() == [0.25, 0.75]


def test_tokens_have_the_cells_of_their_places(pipelines):
    _, family = make(pipelines / "flux")
    calls, prompt = calls_of(family.transformer), family.encode_prompt(tokenized(family, ["a dog"] * 2))
    with torch.no_grad():
        assert family.predict(numbered(4, 6), prompt).shape == (2, 4, 4, 6)
    _, given, _ = calls[0]
    assert given["hidden_states"].shape == (2, 6, 16) and given["img_ids"].shape == (6, 3)
    assert torch.equal(given["hidden_states"].amin(-1)[1], upper_left(given["img_ids"][:, 1:]))
    assert given["txt_ids"].shape == (prompt["embeds"].shape[1], 3) and not given["txt_ids"].any()


def test_length_is_that_of_t5s_prompts(pipelines):
    """CLIP's have its own length, and the attention sees T5's alone."""
    for length in (None, 20):
        config, family = make(pipelines / "flux", {"max_sequence_length": length})
        tokens = family.tokenize("a sks dog")
        assert {key: tuple(ids.shape) for key, ids in tokens.items()} == {
            "input_ids": (1, 77),
            "input_ids_2": (1, length or 512),
        }
        ((tokenizer, own),) = Flux.prompt_tokenizers(config.model)
        assert own == (length or 512) and type(tokenizer) is type(family.tokenizer_2)
        encoded = family.encode_prompt(tokens)
        assert encoded["embeds"].shape == (1, length or 512, 32) and encoded["pooled"].shape == (1, 32)


def test_new_words_are_in_t5s_tokenizer_on_demand(pipelines):
    for t5 in (False, True):
        config = configure(pipelines / "flux", {"train_text_encoder_ti": True, "enable_t5_ti": t5})
        ((tokenizer, _),) = Flux.prompt_tokenizers(config.model)
        assert len(tokenizer) == 98 + (2 if t5 else 0)
