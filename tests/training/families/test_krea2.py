"""Krea 2: the template around prompts, states of many layers, and tokens of 2 x 2 cells at their places."""

import pytest
import torch

from tests.training.families.calls import calls_of, numbered, upper_left
from tests.training.small import make, tokenized


@pytest.mark.parametrize("prompt", ["a sks dog", "a" * 400])
def test_prompt_is_cut_before_the_end_of_the_template(pipelines, prompt):
    _, family = make(pipelines / "krea2", {"max_sequence_length": 400})
    pipeline, tokenizer = family.pipeline(), family.tokenizer
    start = pipeline.prompt_template_encode_start_idx
    asked = f"{pipeline.prompt_template_encode_prefix}{prompt}"
    assert family.asked(prompt) == asked
    letters, suffix = (tokenizer(text).input_ids for text in (asked, pipeline.prompt_template_encode_suffix))
    tokens = family.tokenize(prompt)
    longest = start + 400 - pipeline.prompt_template_encode_num_suffix_tokens
    assert tokens["input_ids"][0].tolist() == [*letters[:longest], *suffix] and tokens["attention_mask"].all()
    assert (len(letters) > longest) == (len(prompt) == 400)


def test_prompt_is_in_the_states_of_the_base_models_layers(pipelines):
    """Without the template's beginning."""
    _, family = make(pipelines / "krea2")
    tokens = family.tokenize("a sks dog")
    with torch.no_grad():
        encoded = family.encode_prompt(tokens)
        states = family.text_encoder(**tokens, output_hidden_states=True).hidden_states
    assert encoded["embeds"].shape == (1, tokens["input_ids"].shape[1] - 34, 3, 32)
    assert encoded["attention_mask"].shape == encoded["embeds"].shape[:2]
    for layer in range(3):
        torch.testing.assert_close(encoded["embeds"][:, :, layer], states[layer][:, 34:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prompts", [["a dog", "a dog"], ["a dog", "a sks dog"]], ids=["alike", "padded"])
def test_tokens_have_the_cells_of_their_places_behind_the_prompt(pipelines, prompts):
    _, family = make(pipelines / "krea2")
    calls, encoded = calls_of(family.transformer), family.encode_prompt(tokenized(family, prompts))
    with torch.no_grad():
        assert family.predict(numbered(4, 6), encoded).shape == (2, 4, 4, 6)
    _, given, _ = calls[0]
    length, places = encoded["embeds"].shape[1], given["position_ids"]
    assert places.shape == (length + 6, 3) and given["timestep"].tolist() == [0.25, 0.75]
    assert torch.equal(given["hidden_states"].amin(-1)[1], upper_left(places[length:, 1:]).float())
    if prompts[0] == prompts[1]:
        assert given["encoder_attention_mask"] is None
    else:
        assert given["encoder_attention_mask"].sum(1).diff().tolist() == [len("sks ")]
