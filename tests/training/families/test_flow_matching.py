"""Flow matching: noisy latents, their velocity, the noise levels that are drawn and their weights."""

import pytest
import torch

from persam_dreambooth.training.config import OptimizationConfig
from random_models import PIPELINES
from tests.training.small import configure, make, noised_for


@pytest.mark.parametrize("name", [name for name in PIPELINES if name not in ("stable-diffusion", "sdxl")])
def test_exact_velocity_leads_from_noise_to_latents(pipelines, name):
    """The pipeline's sampler, given the training target as prediction, ends at the clean latents."""
    config, family = make(pipelines / name)
    side = 32 // family.cell_of(config.model)
    latents = torch.randn(1, 4, side, side)
    scheduler = family.sampler("", family.scheduler.config)
    scheduler.set_timesteps(5, mu=0.0)
    noised, seen = noised_for(family, config, latents), []
    sigma = (noised.noisy - latents).mean() / (noised.noisy - latents - noised.target).mean()
    sign = -1 if name == "lumina2" else 1  # its pipeline negates the velocity before the sampler
    # noisy = latents + s (noise - latents): both ends follow from the sample.
    share = noised.timesteps.item() / 1000
    data_share = share if name == "lumina2" else 1 - share
    noise = (noised.noisy - data_share * latents) / (1 - data_share)
    torch.testing.assert_close(noised.target, sign * (noise - latents), rtol=1e-3, atol=1e-3)
    sample = noise
    for step in scheduler.timesteps:
        seen.append(step)
        sample = scheduler.step(sign * noised.target, step, sample, return_dict=False)[0]
    torch.testing.assert_close(sample, latents, rtol=1e-3, atol=1e-3)
    assert len(seen) == 5 and sigma.isfinite()


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_weighting_schemes_match_diffusers(pipelines, name):
    for scheme in ("sigma_sqrt", "cosmap", "none"):
        settings = {"weighting_scheme": scheme} | ({"precondition_outputs": 0} if name == "sd3" else {})
        config, family = make(pipelines / name, optimization=settings)
        noised = noised_for(family, config)
        sigma = noised.timesteps / 1000
        cosmap = 2 / (torch.pi * (1 - 2 * sigma + 2 * sigma**2))
        expected = {"sigma_sqrt": sigma**-2, "cosmap": cosmap, "none": torch.ones(2)}[scheme]
        torch.testing.assert_close(noised.weight, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("base", ["sd3"], indirect=True)
@pytest.mark.parametrize(
    "changed",
    [
        {"weighting_scheme": "logit_normal", "logit_mean": 3.0},
        {"weighting_scheme": "logit_normal", "logit_std": 0.01},
        {"weighting_scheme": "mode", "mode_scale": 0.1},
    ],
)
def test_noise_levels_are_drawn_as_asked(base, changed):
    scheme = {"weighting_scheme": changed["weighting_scheme"]}
    config, family = make(base, optimization=scheme)
    means = []
    for optimization in (scheme, changed):
        config = configure(base, optimization=optimization)
        torch.manual_seed(0)
        means.append(family.add_noise(torch.zeros(64, 4, 2, 2), config.optimization).timesteps)
    if "logit_mean" in changed:
        assert means[1].mean() < means[0].mean() - 100
    else:
        assert means[1].std() != means[0].std()
    if "logit_std" in changed:
        assert means[1].std() < 0.1 * means[0].std()


@pytest.mark.parametrize("base", ["sd3"], indirect=True)
@pytest.mark.parametrize(
    "far",
    [
        {"weighting_scheme": "logit_normal", "logit_mean": 20.0},
        {"weighting_scheme": "logit_normal", "logit_mean": -200.0},
        {"weighting_scheme": "mode", "mode_scale": 8.0},
    ],
)
def test_noise_levels_end_with_the_schedule(base, far):
    """A draw that rounds to 1, or lies outside [0, 1], gives the last or first level of the schedule."""
    config, family = make(base, optimization=far)
    torch.manual_seed(0)
    drawn = family.add_noise(torch.zeros(64, 4, 2, 2), config.optimization).timesteps
    first, last = family.scheduler.timesteps[0], family.scheduler.timesteps[-1]
    if "logit_mean" in far:
        assert (drawn == (last if far["logit_mean"] > 0 else first)).all()
    else:
        assert drawn.min() == last and drawn.max() == first


def test_preconditioned_outputs_weigh_the_squared_noise_level(pipelines):
    """The default of SD 3 and of no other family."""

    def drawn(name, preconditioned):
        _, family = make(pipelines / name)
        torch.manual_seed(0)
        settings = OptimizationConfig(weighting_scheme="none", precondition_outputs=preconditioned)
        return family.add_noise(torch.zeros(16, 4, 2, 2), settings)

    off, on, unset = (drawn("sd3", value) for value in (0, 1, None))
    assert torch.equal(off.timesteps, on.timesteps) and torch.equal(off.weight, torch.ones(16))
    torch.testing.assert_close(on.weight, (on.timesteps / 1000) ** 2)
    assert torch.equal(unset.weight, on.weight) and torch.equal(drawn("flux", None).weight, torch.ones(16))


@pytest.mark.parametrize(("name", "scheme"), [("sd3", "logit_normal"), ("flux", "none")])
def test_unset_weighting_is_that_of_the_script(pipelines, name, scheme):
    """Timesteps are those of the schedule, in float32, for a picture each."""
    _, family = make(pipelines / name)
    found = []
    for chosen in (None, scheme, "mode"):
        torch.manual_seed(0)
        found.append(family.add_noise(torch.zeros(16, 4, 2, 2), OptimizationConfig(weighting_scheme=chosen)).timesteps)
    unset, same, other = found
    assert torch.equal(unset, same) and not torch.equal(unset, other)
    assert unset.dtype == torch.float32 and torch.isin(unset, family.scheduler.timesteps).all()
