"""Diffusion with a schedule: noisy latents and targets, offset noise, signal-to-noise ratio, sampler."""

import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import OptimizationConfig
from tests.training.small import NAMED, configure, make

on_sd = pytest.mark.parametrize("base", ["epsilon"], indirect=True)


@on_sd
def test_sampler_of_validation_images(base):
    _, family = make(base)
    config = family.pipeline().scheduler.config
    assert type(family.sampler("DDPMScheduler", config)).__name__ == "DDPMScheduler"
    assert type(family.sampler("DPMSolverMultistepScheduler", config)).__name__ == "DPMSolverMultistepScheduler"


@pytest.mark.parametrize(("name", "unit"), [("stable-diffusion", 4), ("sdxl", 4), ("flux", 4), ("sd3", 4)])
def test_side_unit_comes_from_model_configs(pipelines, name, unit):
    config = configure(pipelines / name).model
    family = NAMED[name]
    assert family.even_unit_of(config) == unit and unit % family.side_unit_of(config) == 0


@pytest.mark.parametrize("base", ["epsilon", "v_prediction"], indirect=True)
def test_noisy_latents_and_target_give_the_clean_ones(base):
    """By the schedule's own numbers, which are also those of the signal-to-noise ratio."""
    _, family = make(base)
    latents = torch.randn(64, 4, 6, 10)
    noised = family.add_noise(latents, OptimizationConfig())
    assert noised.timesteps.dtype == torch.int64 and len(noised.timesteps.unique()) > 32
    assert noised.timesteps.min() >= 0 and noised.timesteps.max() <= 999 and noised.weight is None
    signal = family.scheduler.alphas_cumprod[noised.timesteps].sqrt().view(-1, 1, 1, 1)
    noise = (1 - signal**2).sqrt()
    if family.prediction_type == "epsilon":
        clean, drawn = (noised.noisy - noise * noised.target) / signal, noised.target
    else:
        clean = signal * noised.noisy - noise * noised.target
        drawn = noise * noised.noisy + signal * noised.target
    torch.testing.assert_close(clean, latents, rtol=1e-3, atol=1e-3)
    assert abs(drawn.mean()) < 0.05 and drawn.std() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(family.snr(noised.timesteps), (signal / noise).flatten() ** 2, rtol=1e-3, atol=1e-6)


@on_sd
def test_offset_noise_is_constant_in_each_channel(base):
    _, family = make(base)
    targets = []
    for offset in (False, True):
        torch.manual_seed(0)
        targets.append(family.add_noise(torch.zeros(256, 4, 2, 2), OptimizationConfig(offset_noise=offset)).target)
    added = targets[1] - targets[0]
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), rtol=0, atol=1e-5)
    assert added[..., 0, 0].std() == pytest.approx(0.1, rel=0.1)
    assert (
        added[..., 0, 0].std(1).mean() > 0.05 and added[..., 0, 0].std(0).min() > 0.05
    )  # of each channel and picture


@on_sd
def test_another_prediction_is_refused(base):
    _, family = make(base)
    parts = {name: getattr(family, name) for name in ("vae", "unet", "text_encoder", "tokenizer")}
    scheduler = type(family.scheduler).from_config(family.scheduler.config, prediction_type="sample")
    with pytest.raises(UserError, match="predicts sample, and only epsilon and v_prediction are supported"):
        type(family)(family.config, scheduler=scheduler, **parts)
