"""The background prior's bank of fixed draws: the same loss, fewer predictions, resumable."""

from pathlib import Path

import pytest
import torch

from persam_dreambooth.training.objective import training_loss
from persam_dreambooth.training.prior_bank import PriorBank
from tests.training.runs import launch, same_weights, train
from tests.training.test_background_prior import drifted_family, logged

DRAWS = 3
BANK = {"class_prompt": "a dog", "background_prior_weight": 0.5, "cache_background_prior": DRAWS}
LORA = "pytorch_lora_weights.safetensors"


def encoded(base, kind, **more):
    """Return a config, a drifted family and a batch whose photos are encoded."""
    config, family, batch = drifted_family(base, kind, **more)
    return config, family, batch._replace(pixels=None, moments=family.encode_pixels(batch.pixels))


def counted(family):
    """Make a family count its base's predictions; returns the list that grows."""
    calls, predict = [], family.predict_base

    def predict_base(noised, tokens):
        calls.append(len(noised.noisy))
        return predict(noised, tokens)

    family.predict_base = predict_base
    return calls


def loss_with(bank, family, batch, config, seed):
    torch.manual_seed(seed)
    return training_loss(family, batch, config, bank=bank)


@pytest.mark.parametrize("base", ["v_prediction", "sdxl", "sd3", "qwen-image"], indirect=True)
@pytest.mark.parametrize(("kind", "class_images"), [("lora", True), ("full", False), ("lora-text", True)])
def test_loss_equals_that_without_bank_on_the_same_draws(base, kind, class_images):
    config, family, batch = encoded(base, kind, class_images=class_images)
    bank, seen, calls = PriorBank(DRAWS, seed=5), [], counted(family)
    for seed in range(8):
        torch.manual_seed(seed)
        noised, predicted = bank.draw(family, batch, config.optimization)
        before = len(calls)
        loss, terms = loss_with(bank, family, batch, config, seed)
        assert len(calls) == before  # the same draws again are known
        fresh = family.sample_latents, family.add_noise
        family.sample_latents, family.add_noise = (lambda moments: moments), (lambda latents, settings: noised)  # noqa: B023
        expected, expected_terms = training_loss(family, batch, config)
        family.sample_latents, family.add_noise = fresh
        del calls[before:]
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
        for name, term in terms.items():
            torch.testing.assert_close(term, expected_terms[name], rtol=1e-5, atol=1e-7)
        seen.append(predicted)
    assert 1 < len(bank) == len(calls) <= 2 * DRAWS and set(calls) == {1}
    assert len({tuple(noise.flatten().tolist()) for noise in seen}) > 1


def test_gradients_are_the_same_and_random_numbers_too(models):
    base = models / "stable-diffusion"
    gradients, states = [], []
    for again in (False, True):
        config, family, batch = encoded(base, "lora")
        bank = PriorBank(1, seed=5)
        if again:
            loss_with(bank, family, batch, config, 0)
        loss_with(bank, family, batch, config, 1)[0].backward()
        states.append(torch.get_rng_state())
        gradients.append([weight.grad for part in family.trained().values() for weight in part.parameters()])
    assert torch.equal(*states)
    pairs = [pair for pair in zip(*gradients, strict=True) if pair[0] is not None]
    assert pairs and all(torch.equal(*pair) for pair in pairs)


def test_each_photo_crop_prompt_and_seed_has_its_own_draws(models):
    config, family, batch = encoded(models / "stable-diffusion", "lora")
    bank = PriorBank(1, seed=5)
    noised, _ = bank.draw(family, batch, config.optimization)
    swapped = batch._replace(moments=batch.moments.flip(0))
    again, _ = bank.draw(family, swapped, config.optimization)
    assert torch.equal(noised.noisy, again.noisy.flip(0)) and not torch.equal(*noised.noisy)
    assert len(bank) == 2
    bank.draw(family, batch._replace(crop=batch.crop + 1), config.optimization)
    assert len(bank) == 4
    prompt = {name: value.flip(-1) for name, value in batch.class_prompt.items()}
    bank.draw(family, batch._replace(class_prompt=prompt), config.optimization)
    assert len(bank) == 6
    other, _ = PriorBank(1, seed=6).draw(family, batch, config.optimization)
    assert not torch.equal(noised.noisy, other.noisy)


def test_step_without_masks_uses_no_bank(models):
    config, family, batch = encoded(models / "stable-diffusion", "lora")
    bank = PriorBank(1, seed=5)
    training_loss(family, batch, config, unmasked=True, bank=bank)
    assert len(bank) == 0


@pytest.mark.parametrize("switches", [("--use_lora",), ()])
def test_resume_equals_uninterrupted(flags, switches):
    flags |= BANK | {"train_batch_size": 1, "checkpointing_steps": 3}
    switches = (*switches, "--cache_latents", "--random_flip")
    assert train(flags, *switches, output_dir="whole", max_train_steps=8) == 0
    assert train(flags, *switches, output_dir="parts", max_train_steps=3) == 0
    assert train(flags, *switches, output_dir="parts", max_train_steps=8, resume_from_checkpoint="latest") == 0
    name = LORA if "--use_lora" in switches else "unet/diffusion_pytorch_model.safetensors"
    assert same_weights(f"whole/{name}", f"parts/{name}")
    assert logged("background_prior_loss", "whole")[-1] > 0


def test_training_draws_from_the_bank_only(flags):
    """With one draw and one version of one photo, every step has the same noise: the instance loss falls steadily."""
    for name in ("01", "02"):
        Path(f"photos/{name}.png").unlink()
    switches = ("--use_lora", "--cache_latents", "--center_crop")
    one = flags | BANK | {"cache_background_prior": 1, "train_batch_size": 1, "max_train_steps": 12}
    assert train(one, *switches) == 0
    losses = logged("instance_loss")
    assert losses == sorted(losses, reverse=True)


def test_two_processes_have_their_own_banks(flags):
    launch(2, flags | BANK | {"train_batch_size": 1}, "--use_lora", "--cache_latents")
    assert len(logged("background_prior_loss")) == 4


@pytest.mark.parametrize(("weight", "switches"), [(0, ("--cache_latents",)), (1, ())])
def test_needs_prior_and_cached_latents(flags, capsys, weight, switches):
    assert train(flags | BANK | {"background_prior_weight": weight}, "--use_lora", *switches) == 2
    said = capsys.readouterr().err
    assert "add --background_prior_weight and --cache_latents" in said and not Path("output").exists()
