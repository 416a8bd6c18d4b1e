"""Flux.2 and Flux.2 Klein: latents whitened in patches."""

import pytest
import torch

from tests.training.families.calls import calls_of, numbered, upper_left
from tests.training.small import make, tokenized


@pytest.mark.parametrize("name", ["flux2-klein", "flux2"])
def test_flux2_normalizes_patches_as_its_pipeline_undoes_it(pipelines, name):
    _, family = make(pipelines / name)
    latents, pipe, norm = torch.randn(2, 4, 6, 10), family.pipeline_class, family.vae.bn
    mean, std = (values.view(1, -1, 1, 1) for values in (norm.running_mean, norm.running_var.add(1e-4).sqrt()))
    patches = pipe._patchify_latents(family.normalize(latents))
    torch.testing.assert_close(pipe._unpatchify_latents(patches * std + mean), latents)
    torch.manual_seed(3)
    noise = family.draw_noise(latents)
    torch.manual_seed(3)
    assert torch.equal(pipe._patchify_latents(noise), torch.randn(2, 16, 3, 5))


@pytest.mark.parametrize("name", ["flux2-klein", "flux2"])
def test_tokens_have_the_cells_of_their_places(pipelines, name):
    """And Flux.2, unlike Klein, the guidance as an input."""
    _, family = make(pipelines / name, {"guidance_scale": 2.5} if name == "flux2" else {})
    calls, prompt = calls_of(family.transformer), family.encode_prompt(tokenized(family, ["a dog"] * 2))
    with torch.no_grad():
        assert family.predict(numbered(4, 6), prompt).shape == (2, 4, 4, 6)
    _, given, _ = calls[0]
    places = given["img_ids"].expand(2, -1, -1)[1]
    assert torch.equal(given["hidden_states"].amin(-1)[1], upper_left(places[:, 1:3]).float())
    assert given["timestep"].tolist() == [0.25, 0.75]
    assert given["guidance"] is None if name == "flux2-klein" else given["guidance"].tolist() == [2.5, 2.5]


def test_prompt_is_in_the_states_of_three_layers(pipelines):
    """A third of the channels for each, in the order of the layers."""
    _, family = make(pipelines / "flux2-klein")
    tokens = family.tokenize("a sks dog")
    with torch.no_grad():
        embeds = family.encode_prompt(tokens)["embeds"]
        states = family.text_encoder(**tokens, output_hidden_states=True).hidden_states
    assert embeds.shape == (1, 512, 96)
    for part, layer in zip(embeds.chunk(3, dim=-1), (9, 18, 27), strict=True):
        torch.testing.assert_close(part, states[layer])
