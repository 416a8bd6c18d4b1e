"""Stable Diffusion XL: the crop's place, the autoencoder's statistics, and EDM's noise."""

from dataclasses import replace

import pytest
import torch
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import OptimizationConfig
from persam_dreambooth.training.families.sdxl import add_edm_noise
from random_models import random_sdxl
from tests.training.small import batch_for, make, noised_for, prediction_of


def test_sdxl_gets_crop_position(pipelines):
    config, family = make(pipelines / "sdxl")
    batch, noised = batch_for(family, class_images=False), noised_for(family, config)
    given = []
    family.unet.register_forward_pre_hook(lambda module, args, kwargs: given.append(kwargs), with_kwargs=True)
    here = prediction_of(family, noised, batch)
    assert given[0]["added_cond_kwargs"]["time_ids"].tolist() == [[40, 48, 0, 5, 32, 32]] * 2
    elsewhere = replace(noised, crop=noised.crop + torch.tensor([0, 0, 9, 0, 0, 0]))
    assert (prediction_of(family, elsewhere, batch) - here).abs().max() > 1e-3


def test_sdxl_normalizes_latents_by_autoencoder_statistics(tmp_path):
    pipeline = random_sdxl()
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    mean, std = [0.1, -0.2, 0.3, 0.4], [0.5, 1.0, 2.0, 4.0]
    pipeline.vae.register_to_config(latents_mean=mean, latents_std=std)
    pipeline.save_pretrained(tmp_path)
    _, family = make(tmp_path)
    family.place(torch.device("cpu"), torch.bfloat16)
    torch.manual_seed(0)
    latents = family.sample_latents(family.encode_pixels(pixels))
    torch.manual_seed(0)
    raw = pipeline.vae.encode(pixels).latent_dist.sample()
    expected = (raw - torch.tensor(mean).view(1, 4, 1, 1)) * pipeline.vae.config.scaling_factor
    torch.testing.assert_close(latents, expected / torch.tensor(std).view(1, 4, 1, 1))
    assert latents.dtype == torch.float32  # the real one overflows in half precision
    with torch.autocast("cpu", torch.bfloat16):  # as in validation
        assert family.pipeline().vae.decode(latents.bfloat16()).sample.dtype == torch.float32


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, EDMEulerScheduler])
def test_edm_loss_is_that_of_the_clean_image(kind, prediction_type):
    """Weight times the squared error of F equals w (D - x0)^2, as diffusers' script computes it step by step."""
    torch.manual_seed(0)
    levels = kind(prediction_type=prediction_type)
    latents, noise, output = torch.randn(3, 8, 4, 4, 4, dtype=torch.float64)
    state = torch.get_rng_state()
    noised = add_edm_noise(levels, latents, noise)
    torch.set_rng_state(state)
    indices = torch.randint(0, 1000, (8,))
    assert torch.equal(noised.timesteps, levels.timesteps[indices])
    sigma = levels.sigmas[indices].double().view(-1, 1, 1, 1)
    x = latents + sigma * noise
    if kind is EDMEulerScheduler:
        clean, w = levels.precondition_outputs(x, output, sigma), 1.0
        given = levels.precondition_inputs(x, sigma)
    else:
        given, w = x / (sigma**2 + 1) ** 0.5, sigma**-2
        clean = output * -sigma + x
        if prediction_type == "v_prediction":
            clean = output * (-sigma / (sigma**2 + 1) ** 0.5) + x / (sigma**2 + 1)
    torch.testing.assert_close(noised.noisy, given)
    ours = noised.weight.view(-1, 1, 1, 1) * (output - noised.target) ** 2
    torch.testing.assert_close(ours, w * (clean - latents) ** 2, rtol=1e-4, atol=1e-6)


def test_edm_style_of_an_ordinary_base_model(pipelines):
    _, family = make(pipelines / "sdxl", {"use_lora": True})
    latents, plain = torch.randn(2, 4, 16, 16), OptimizationConfig()
    styled = OptimizationConfig(do_edm_style_training=True)
    assert not family.add_noise(latents, plain).timesteps.is_floating_point()
    noised = family.add_noise(latents, styled)
    assert noised.timesteps.is_floating_point() and noised.weight.shape == (2,)
    with pytest.raises(UserError, match="--snr_gamma has no meaning with --do_edm_style_training"):
        make(pipelines / "sdxl", optimization={"do_edm_style_training": True, "snr_gamma": 5.0})


def test_prediction_needs_a_crop(pipelines):
    config, family = make(pipelines / "sdxl")
    batch, noised = batch_for(family, class_images=False), noised_for(family, config)
    with pytest.raises(ValueError, match="conditioned on the crop"):
        prediction_of(family, replace(noised, crop=None), batch)


def test_both_clips_read_the_prompt(pipelines):
    """The UNet gets the states of both, and the second one's pooled prompt."""
    _, family = make(pipelines / "sdxl")
    tokens = family.tokenize("a sks dog")
    assert {key: tuple(ids.shape) for key, ids in tokens.items()} == {"input_ids": (1, 77), "input_ids_2": (1, 77)}
    with torch.no_grad():
        encoded = family.encode_prompt(tokens)
        outputs = [
            encoder(ids, output_hidden_states=True)
            for encoder, ids in zip((family.text_encoder, family.text_encoder_2), tokens.values(), strict=True)
        ]
    torch.testing.assert_close(encoded["embeds"], torch.cat([one.hidden_states[-2] for one in outputs], -1))
    torch.testing.assert_close(encoded["pooled"], outputs[1].text_embeds)
