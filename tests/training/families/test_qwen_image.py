"""Qwen-Image: a video autoencoder for pictures, and the pipeline's template around prompts."""

import pytest
import torch

from tests.training.families.calls import calls_of, numbered
from tests.training.small import SIDE, make, tokenized


@pytest.mark.parametrize("name", ["qwen-image", "krea2"])
def test_video_autoencoder_encodes_pictures_as_its_pipeline_decodes_them(pipelines, name):
    _, family = make(pipelines / name)
    pixels, config = torch.rand(2, 3, SIDE, SIDE) * 2 - 1, family.vae.config
    moments = family.encode_pixels(pixels)
    posterior = family.vae.encode(pixels.unsqueeze(2)).latent_dist
    assert torch.equal(moments.unsqueeze(2), posterior.parameters)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std))
    torch.manual_seed(3)
    latents = family.sample_latents(moments)
    torch.manual_seed(3)
    torch.testing.assert_close(latents * std + mean, posterior.sample().squeeze(2))


@pytest.mark.parametrize("prompts", [["a dog", "a dog"], ["a dog", "a sks dog"]], ids=["alike", "padded"])
def test_transformer_gets_shapes_and_a_mask_of_what_is_padded(pipelines, prompts):
    _, family = make(pipelines / "qwen-image")
    calls, encoded = calls_of(family.transformer), family.encode_prompt(tokenized(family, prompts))
    with torch.no_grad():
        assert family.predict(numbered(4, 6), encoded).shape == (2, 4, 4, 6)
    _, given, _ = calls[0]
    assert given["img_shapes"] == [[(1, 2, 3)]] * 2 and given["timestep"].tolist() == [0.25, 0.75]
    corners = given["hidden_states"].amin(-1)[1]
    assert corners.tolist() == [0, 2, 4, 200, 202, 204]  # row by row
    if prompts[0] == prompts[1]:
        assert given["encoder_hidden_states_mask"] is None
    else:
        assert given["encoder_hidden_states_mask"].sum(1).diff().tolist() == [len("sks ")]


def test_beginning_of_the_template_is_dropped(pipelines):
    """As many tokens as the pipeline drops; the rest is as long as the mask."""
    _, family = make(pipelines / "qwen-image")
    tokens = family.tokenize("a sks dog")
    encoded, pipeline = family.encode_prompt(tokens), family.pipeline()
    dropped = pipeline.prompt_template_encode_start_idx
    assert family.asked("a sks dog") == pipeline.prompt_template_encode.format("a sks dog")
    assert encoded["embeds"].shape[1] == encoded["attention_mask"].shape[1] == tokens["input_ids"].shape[1] - dropped
    with torch.no_grad():
        states = family.text_encoder(**tokens, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(encoded["embeds"], states[:, dropped:])
