"""The background prior: only outside the mask, the prediction is pulled towards the frozen base model's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from persam_dreambooth.training.objective import training_loss
from tests.training.runs import launch, train
from tests.training.small import (
    KINDS,
    SIDE,
    batch_for,
    every_family,
    make,
    noised_for,
    tokenized,
    trained_parameters,
)

every_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dora"])


def drifted_family(base, kind, weight=1.0, class_prompt="a dog", class_images=False, drift=0.02, model=None, **groups):
    """Return a config, a family whose trained weights have drifted from the base's, and a batch."""
    mask = {"background_prior_weight": weight} | groups.pop("mask", {})
    data = {"class_prompt": class_prompt}
    torch.manual_seed(2)
    config, family = make(base, KINDS[kind] | (model or {}), mask, data=data, **groups)
    if weight > 0:
        family.keep_base()
    torch.manual_seed(3)
    for parameter in trained_parameters(family):
        parameter.data += drift * torch.randn_like(parameter)
    batch = batch_for(family, class_images)
    return config, family, batch._replace(class_prompt=tokenized(family, [class_prompt] * 2))


def loss_of(family, batch, config, seed=1):
    torch.manual_seed(seed)
    return training_loss(family, batch, config)


def gradient(family, batch, config):
    """Return the gradient with respect to the trained prediction, (B, C, h, w), and the loss terms."""
    kept = []
    predict = family.predict

    def predict_and_keep(noised, embeddings):
        prediction = predict(noised, embeddings)
        if prediction.requires_grad:
            prediction.retain_grad()
            kept.append(prediction)
        return prediction

    family.predict = predict_and_keep
    loss, terms = loss_of(family, batch, config)
    family.predict = predict
    loss.backward()
    assert len(kept) == 1  # the base model's prediction has no graph
    return kept[0].grad, terms


def logged(name, output="output"):
    """Read a loss term of every step from the run's tensorboard log."""
    events = EventAccumulator(str(Path(output) / "logs" / "dreambooth"), size_guidance={"scalars": 0})
    events.Reload()
    return [event.value for event in events.Scalars(name)]


def latent_mask_of(family, batch, config):
    """Return the latent mask, (B, 1, h, w)."""
    return F.avg_pool2d(batch.mask, family.cell_of(config.model))


@every_kind
@pytest.mark.parametrize(
    "optimization", [{}, {"snr_gamma": 0.05}]
)  # low enough that weights depend on the noise level
def test_loss_equals_explicit_computation(base, kind, optimization):
    snr_gamma = optimization.get("snr_gamma")
    config, family, batch = drifted_family(base, kind, weight=0.7, class_images=True, optimization=optimization)
    seen = {}
    add = family.add_noise
    family.add_noise = lambda latents, offset: seen.setdefault("noised", add(latents, offset))
    loss, terms = loss_of(family, batch, config)
    noised, (_, untouched) = replace(seen["noised"], crop=batch.crop), make(base)
    first, steps = noised.first(2), noised.timesteps[:2]

    def expected(prompt):
        with torch.no_grad():
            frozen = untouched.predict(first, untouched.encode_prompt(tokenized(family, [prompt] * 2)))
            prediction = family.predict(noised, family.encode_prompt(batch.prompt))[:2]
        outside = 1 - latent_mask_of(family, batch, config)
        error = ((prediction - frozen) ** 2 * outside).sum((1, 2, 3)) / (4 * outside.sum((1, 2, 3)))
        if snr_gamma is None:
            return (error if first.weight is None else error * first.weight).mean()
        alphas = family.scheduler.alphas_cumprod[steps]
        snr = alphas / (1 - alphas)
        return (error * snr.clamp_max(snr_gamma) / (snr if family.prediction_type == "epsilon" else snr + 1)).mean()

    term = terms["background_prior_loss"]
    torch.testing.assert_close(term, expected("a dog"), rtol=1e-4, atol=1e-7)
    # The class prompt is used; small random language models hardly tell prompts apart.
    assert (term - expected("a sks dog")).abs() > 3e-4 * term
    parts = terms["instance_loss"] + 0.7 * term + terms["prior_loss"]
    torch.testing.assert_close(loss.detach(), parts)
    torch.testing.assert_close(terms["loss"], parts)


ROUNDING = 1e-12
"""Squared difference of two forward passes of equal weights; on some processors it is not exactly zero."""


@every_family
@every_kind
def test_untrained_model_equals_its_base(base, kind):
    dropout = {"lora_dropout": 0.3} if "lora" in kind else {}
    config, family, batch = drifted_family(base, kind, class_prompt="a sks dog", drift=0.0, model=dropout)
    for part in family.trained().values():
        part.train()
    _, terms = loss_of(family, batch, config)
    assert terms["background_prior_loss"].item() < ROUNDING
    other, family, batch = drifted_family(base, kind, class_prompt="a dog", drift=0.0)
    assert loss_of(family, batch, other)[1]["background_prior_loss"] > 1e3 * ROUNDING


@every_family
@every_kind
def test_terms_act_on_opposite_sides_of_mask(base, kind):
    config, family, batch = drifted_family(base, kind, weight=0.0)
    alone, before = gradient(family, batch, config)
    config, family, batch = drifted_family(base, kind, weight=2.0)
    both, terms = gradient(family, batch, config)
    mask = latent_mask_of(family, batch, config).expand_as(both)
    assert (mask == 1).any() and ((mask > 0) & (mask < 1)).any()
    assert (alone[mask == 0] == 0.0).all() and (both[mask == 0] != 0.0).all()
    assert torch.equal(both[mask == 1], alone[mask == 1])
    assert torch.equal(terms["instance_loss"], before["instance_loss"])


@every_family
@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("kind", ["lora", "lora-text"])
def test_adapters_are_re_enabled(base, kind, breaks):
    config, family, batch = drifted_family(base, kind)
    parts = list(family.trained().values())
    trainable = {id(weight) for weight in trained_parameters(family)}
    parts[0].train()
    modes = [[module.training for module in part.modules()] for part in parts]
    torch.manual_seed(1)
    noised = noised_for(family, config)

    def predict():
        with torch.no_grad():
            return family.predict(noised, family.encode_prompt(batch.class_prompt))

    trained = predict()
    if breaks:
        hook = parts[0].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            family.predict_base(noised, batch.class_prompt)
        hook.remove()
    else:
        assert not torch.equal(family.predict_base(noised, batch.class_prompt), trained)
    assert torch.equal(predict(), trained)
    layers = [module for part in parts for module in part.modules() if isinstance(module, BaseTunerLayer)]
    assert layers and not any(layer.disable_adapters for layer in layers)
    assert {id(weight) for weight in trained_parameters(family)} == trainable
    assert modes == [[module.training for module in part.modules()] for part in parts]


@every_family
@pytest.mark.parametrize("kind", ["full", "full-text"])
def test_trained_modules_are_restored_if_base_model_fails(base, kind):
    config, family, batch = drifted_family(base, kind)
    parts = family.trained()
    next(iter(family.base.values())).register_forward_hook(lambda *_: 1 / 0)
    noised = noised_for(family, config)
    with pytest.raises(ZeroDivisionError):
        family.predict_base(noised, batch.class_prompt)
    assert all(family.trained()[name] is part for name, part in parts.items())


@every_family
@every_kind
def test_base_stays_frozen_during_training(base, kind):
    config, family, batch = drifted_family(base, kind, drift=0.0)
    noised = noised_for(family, config)
    first = family.predict_base(noised, batch.class_prompt)
    kept = {
        name: {key: value.clone() for key, value in part.state_dict().items()} for name, part in family.base.items()
    }
    assert set(kept) == (set(family.trained()) if kind.startswith("full") else set())  # LoRA needs no copy
    before = [weight.detach().clone() for weight in trained_parameters(family)]
    optimizer = torch.optim.AdamW(trained_parameters(family), 1e-2)
    used = set()
    for step in range(3):
        loss, _ = loss_of(family, batch, config, seed=step)
        loss.backward()
        used |= {id(weight) for weight in trained_parameters(family) if weight.grad is not None and weight.grad.any()}
        optimizer.step()
        optimizer.zero_grad()
    learned = [pair for pair in zip(before, trained_parameters(family), strict=True) if id(pair[1]) in used]
    # Not all are used: SDXL skips the last layer of a text encoder.
    assert len(learned) > 0.75 * len(before) and not any(torch.equal(*pair) for pair in learned)
    for name, part in family.base.items():
        assert all(torch.equal(value, kept[name][key]) for key, value in part.state_dict().items())
        assert not part.training and all(
            weight.grad is None and not weight.requires_grad for weight in part.parameters()
        )
    assert torch.equal(family.predict_base(noised, batch.class_prompt), first)


@every_family
@every_kind
def test_draws_no_random_numbers(base, kind):
    """Not even if the base model has dropout."""
    states, instance_losses = [], []
    for weight in (0.0, 1.0):
        config, family, batch = drifted_family(base, kind, weight)
        for part in family.trained().values():
            part.train()
        frozen = (getattr(family, name) for name in family.encoders)
        for part in (*family.trained().values(), *frozen, *family.base.values()):
            for module in part.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.3
        instance_losses.append(loss_of(family, batch, config)[1]["instance_loss"])
        states.append(torch.get_rng_state())
        if weight > 0:
            noised = noised_for(family, config)
            assert torch.equal(*(family.predict_base(noised, batch.class_prompt) for _ in range(2)))
    assert torch.equal(*states) and torch.equal(*instance_losses)


@pytest.mark.parametrize("base", ["epsilon", "v_prediction", "sd3"], indirect=True)
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_background_stays_closer_to_base(base, kind):
    def distance(weight):
        """Return the distance between the subject's background and the class's after a short training."""
        config, family, batch = drifted_family(base, kind, weight, drift=0.0)
        rate = 1e-3 if kind == "full" else 1e-2
        optimizer = torch.optim.AdamW(trained_parameters(family), rate)
        for step in range(25):
            loss, _ = loss_of(family, batch, config, seed=step)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        config.mask.background_prior_weight = 1.0
        _, untrained, _ = drifted_family(base, kind, drift=0.0)
        family.predict_base = untrained.predict_base
        with torch.no_grad():
            return float(
                np.mean([loss_of(family, batch, config, 100 + n)[1]["background_prior_loss"] for n in range(4)])
            )

    assert distance(5.0) < 0.5 * distance(0.0)


SWITCHES = {
    "full": (),
    "full-text": ("--train_text_encoder",),
    "lora": ("--use_lora",),
    "lora-text": ("--use_lora", "--train_text_encoder"),
}
ON = {"class_prompt": "a dog", "background_prior_weight": 0.5}


@every_kind
def test_combines_with_all_other_options(flags, kind):
    """Class images, accumulation, min-SNR, bf16 and validation: the loss is the sum of its terms."""
    together = {"class_data_dir": "class", "num_class_images": 2, "snr_gamma": 5.0, "mixed_precision": "bf16"}
    together |= {"gradient_accumulation_steps": 2, "validation_prompt": "a sks dog", "num_validation_images": 1}
    switches = ("--with_prior_preservation", "--offset_noise", "--gradient_checkpointing", *SWITCHES[kind])
    assert train(flags, *switches, **ON, **together) == 0
    values = {name: logged(name) for name in ("loss", "instance_loss", "background_prior_loss", "prior_loss")}
    assert len(values["loss"]) == 4 and min(values["background_prior_loss"]) > 0
    sums = [
        instance + 0.5 * background + prior
        for instance, background, prior in zip(*(values[name] for name in list(values)[1:]), strict=True)
    ]
    assert values["loss"] == pytest.approx(sums, rel=1e-5)
    assert "background prior weight 0.5" in Path("output/README.md").read_text()


@every_family
@pytest.mark.parametrize("kind", ["full-text", "lora-text"])
def test_bf16_follows_float32(base, kind):
    """The frozen copy is in bf16 like the trained model, so they differ by the training only."""
    terms = {}
    for dtype in (torch.float32, torch.bfloat16):
        config, family, batch = drifted_family(base, kind, drift=0.05)
        family.place(torch.device("cpu"), dtype)
        assert {next(part.parameters()).dtype for part in family.base.values()} <= {dtype}
        side = SIDE // family.cell_of(config.model)
        latents = torch.rand(2, 4, side, side, generator=torch.Generator().manual_seed(0))
        family.sample_latents = lambda moments, latents=latents: latents
        add = family.add_noise

        def fixed(latents, settings, add=add):
            """Use timesteps that bf16 represents exactly, since Flux rounds timesteps and guidance to bf16."""
            noised = add(latents, settings)
            return replace(noised, timesteps=noised.timesteps.new_tensor([500, 250]))

        family.add_noise, family.config.guidance_scale = fixed, 4.0
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            terms[dtype] = loss_of(family, batch, config)[1]["background_prior_loss"].item()
    assert terms[torch.bfloat16] == pytest.approx(terms[torch.float32], rel=0.1)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_precomputed_prompts_give_same_loss(flags, kind):
    assert train(flags, *SWITCHES[kind], **ON, output_dir="each-step") == 0
    assert train(flags, *SWITCHES[kind], "--pre_compute_text_embeddings", **ON) == 0
    for name in ("loss", "background_prior_loss"):
        assert logged(name) == pytest.approx(logged(name, "each-step"), rel=1e-4)


@every_kind
def test_zero_weight_equals_flag_unset(flags, kind):
    files = {}
    for name, more in {"without": {}, "zero": ON | {"background_prior_weight": 0}, "on": ON}.items():
        assert train(flags, *SWITCHES[kind], **more, checkpointing_steps=4, output_dir=name) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
        files[name] = {path.relative_to(name) for path in Path(name).rglob("*") if "logs" not in path.parts}
    weights = [path for path in files["without"] if path.suffix == ".safetensors"]
    assert len(weights) >= 2
    for path in weights:
        without, zero = load_file("without" / path), load_file("zero" / path)
        assert all(torch.equal(without[key], zero[key]) for key in without)
    assert files["on"] == files["zero"] == files["without"]  # the frozen copy is not saved
    assert logged("loss", "zero") == logged("loss", "without")
    name = "pytorch_lora_weights.safetensors" if "lora" in kind else "unet/diffusion_pytorch_model.safetensors"
    on, zero = load_file(f"on/{name}"), load_file(f"zero/{name}")
    assert any(not torch.equal(on[key], zero[key]) for key in on)


@pytest.mark.parametrize("kind", ["full-text", "lora-text"])
def test_two_processes_use_base_of_wrapped_model(flags, kind):
    """For the same prompt, model and base agree exactly before the first step, and no longer after it."""
    same = {"class_prompt": flags["instance_prompt"], "background_prior_weight": 1.0}
    launch(2, flags | same | {"train_batch_size": 1, "max_train_steps": 2}, *SWITCHES[kind])
    first, second = logged("background_prior_loss")
    assert first < ROUNDING and second > 1e3 * ROUNDING
