"""Stable Diffusion 3: with and without its T5."""

import pytest
import torch
from diffusers import DiffusionPipeline

from persam_dreambooth.training.families.sd3 import StableDiffusion3
from random_models import random_sd3
from tests.training.families.calls import calls_of, numbered
from tests.training.small import batch_for, make, noised_for, prediction_of, tokenized


def test_sd3_without_t5_uses_zeros(tmp_path):
    random_sd3(with_t5=False).save_pretrained(tmp_path)
    config, family = make(tmp_path, {"use_lora": True})
    ours = family.encode_prompt(family.tokenize("a sks dog"))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path, text_encoder_3=None, tokenizer_3=None)
    theirs = pipeline.encode_prompt("a sks dog", None, None, max_sequence_length=77)
    torch.testing.assert_close(ours["embeds"], theirs[0])
    assert family.pipeline().text_encoder_3 is None
    assert prediction_of(family, noised_for(family, config), batch_for(family, False)).isfinite().all()


@pytest.mark.parametrize("with_t5", [True, False])
def test_length_is_that_of_t5s_part_of_the_prompt(tmp_path, with_t5):
    """Zeros have it too. Attention sees CLIP's 77 tokens, then T5's; without a T5 nothing stands in those."""
    random_sd3(with_t5=with_t5).save_pretrained(tmp_path)
    for length in (None, 20):
        config, family = make(tmp_path, {"max_sequence_length": length})
        tokens = family.tokenize("a sks dog")
        assert tokens["input_ids"].shape == tokens["input_ids_2"].shape == (1, 77)
        assert ("input_ids_3" in tokens) == with_t5
        embeds = family.encode_prompt(tokens)["embeds"]
        assert embeds.shape == (1, 77 + (length or 77), 64) and embeds[:, 77:].any() == with_t5
        own = StableDiffusion3.prompt_tokenizers(config.model)
        assert [size for _, size in own] == [None, length or 77][: 1 + with_t5]
        assert type(own[0][0]) is type(family.tokenizer) and type(own[-1][0]) is type(family.tokenizer_3 or own[0][0])


def test_transformer_gets_timesteps_as_they_are(pipelines):
    """From 0 to 1000, unlike in other families."""
    _, family = make(pipelines / "sd3")
    calls, prompt = calls_of(family.transformer), family.encode_prompt(tokenized(family, ["a dog"] * 2))
    with torch.no_grad():
        prediction = family.predict(numbered(4, 6), prompt)
    _, given, output = calls[0]
    assert given["timestep"].tolist() == [250, 750] and torch.equal(prediction, output[0])
    assert torch.equal(given["pooled_projections"], prompt["pooled"])
