"""Stable Diffusion 1.x and 2.x: its text encoder's and its UNet's own flags."""

import pytest
import torch

from persam_dreambooth.errors import UserError
from tests.training.small import batch_for, make, noised_for, prediction_of

on_sd = pytest.mark.parametrize("base", ["epsilon"], indirect=True)


@on_sd
def test_attention_mask_and_other_tokenizer_reach_the_text_encoder(base, tmp_path):
    _, plain = make(base)
    _, masked = make(base, {"text_encoder_use_attention_mask": True})
    tokens = plain.tokenize("a dog")
    encoded = [family.encode_prompt(tokens)["embeds"] for family in (plain, masked)]
    length = int(tokens["attention_mask"].sum())
    assert torch.allclose(encoded[0][:, :length], encoded[1][:, :length], atol=1e-5)  # CLIP is causal
    assert not torch.allclose(*encoded, atol=1e-3)
    plain.tokenizer.model_max_length = 20
    plain.tokenizer.save_pretrained(tmp_path)
    _, other = make(base, {"tokenizer_name": str(tmp_path)})
    assert other.tokenize("a dog")["input_ids"].shape == (1, 20)


@on_sd
def test_timesteps_are_class_labels_on_demand(base, monkeypatch):
    config, family = make(base, {"class_labels_conditioning": "timesteps"})
    batch, noised = batch_for(family, False), noised_for(family, config)
    given = []
    family.unet.register_forward_pre_hook(
        lambda _, __, named: given.append(named.get("class_labels")), with_kwargs=True
    )
    prediction_of(family, noised, batch)
    family.config.class_labels_conditioning = None
    prediction_of(family, noised, batch)
    assert torch.equal(given[0], noised.timesteps) and given[1] is None


@on_sd
def test_prompts_are_as_long_as_asked_up_to_what_the_text_encoder_takes(base):
    for length in (None, 20, 77):
        _, family = make(base, {"tokenizer_max_length": length})
        tokens = family.tokenize("a sks dog")
        assert tokens["input_ids"].shape == tokens["attention_mask"].shape == (1, length or 77)
        assert int(tokens["attention_mask"].sum()) == 2 + len("asksdog")
    with pytest.raises(UserError, match="--tokenizer_max_length 78 must be at most 77"):
        make(base, {"tokenizer_max_length": 78})
