"""Through the real model: no gradient from the background, and masks do not affect class images."""

from dataclasses import replace

import pytest
import torch

from persam_dreambooth.training.objective import training_loss
from tests.training.small import batch_for, every_family, make, trained_parameters


def gradient(family, config, batch):
    """Return the gradient with respect to the denoiser's prediction, (B, C, h, w)."""
    kept, predict = [], family.predict

    def keep(noised, conditioning):
        kept.append(predict(noised, conditioning))
        kept[0].retain_grad()
        return kept[0]

    family.predict = keep
    torch.manual_seed(1)
    loss, _ = training_loss(family, batch, config)
    loss.backward()
    family.predict = predict
    return kept[0].grad


@pytest.mark.parametrize(
    ("dtype", "class_images"), [(torch.float32, True), (torch.bfloat16, False)], ids=["float32-class", "bf16"]
)
@pytest.mark.parametrize(
    ("model", "mask", "optimization"),
    [
        ({}, {}, {}),
        ({"use_lora": True}, {"mask_normalization": "batch"}, {"snr_gamma": 5.0}),
        (
            {"train_text_encoder": True},
            {"mask_normalization": "none", "mask_downsample": "max"},
            {"offset_noise": True},
        ),
        ({"use_lora": True, "train_text_encoder": True}, {"mask_downsample": "nearest"}, {}),
        ({"use_lora": True}, {"mask_normalization": "batch"}, {"weighting_scheme": "sigma_sqrt"}),
        ({}, {"mask_normalization": "none", "mask_downsample": "max"}, {"weighting_scheme": "cosmap"}),
        ({"use_lora": True}, {}, {"precondition_outputs": 0}),
    ],
)
def test_only_foreground_has_gradients(base, model, mask, optimization, dtype, class_images):
    config, family = make(base, model, mask, optimization)
    batch = batch_for(family, class_images)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        grad = gradient(family, config, batch)
    touched = (
        torch.nn.functional.max_pool2d(batch.mask, family.cell_of(config.model)) > 0
    )  # cells with any pixel of the subject
    outside = ~touched.expand_as(grad[:2])
    assert (grad[:2][outside] == 0.0).all()
    assert (grad[:2][~outside] != 0.0).any()
    if class_images:
        assert (grad[2:] != 0.0).float().mean() > 0.99


UNUSED = ("transformer_blocks.1.attn", "transformer_blocks.1.txt_mlp", "x_pad_token")
"""Weights that no loss reaches: SD 3's and Qwen-Image's last block does not use the prompt any further, and Z-Image
pads latents only where their number is no multiple of 32."""


@every_family
@pytest.mark.parametrize("model", [{}, {"use_lora": True}, {"use_lora": True, "train_text_encoder": True}])
def test_background_changes_no_gradient(base, model):
    """Whatever the error in the background, the gradient of every trained weight is the same."""

    def gradients(disturbance):
        torch.manual_seed(0)  # LoRA adapters are initialized randomly
        config, family = make(base, model)
        batch = batch_for(family, class_images=False)
        touched = torch.nn.functional.max_pool2d(batch.mask, family.cell_of(config.model)) > 0
        add = family.add_noise

        def disturbed(latents, settings):
            noised = add(latents, settings)
            return replace(noised, target=torch.where(touched, noised.target, noised.target + disturbance))

        family.add_noise = disturbed
        for part in family.trained().values():
            for name, weight in part.named_parameters():
                if "lora_B" in name:
                    weight.data += 0.02  # zero-initialized adapters would pass no gradient to their other half
        torch.manual_seed(1)
        training_loss(family, batch, config)[0].backward()
        return [weight.grad for weight in trained_parameters(family)]

    calm, wild = gradients(0.0), gradients(1e6)
    assert sum(gradient is not None and bool((gradient != 0).any()) for gradient in calm) > 0.85 * len(calm)
    assert all(gradient is other or torch.equal(gradient, other) for gradient, other in zip(calm, wild, strict=True))


@every_family
def test_masks_do_not_affect_class_images(base):
    config, family = make(base)
    batch = batch_for(family, class_images=True)
    masked = gradient(family, config, batch)
    white = gradient(family, config, batch._replace(mask=torch.ones_like(batch.mask)))
    torch.testing.assert_close(masked[2:], white[2:])
    assert not torch.equal(masked[:2], white[:2])


@pytest.mark.parametrize("base", ["epsilon", "v_prediction", "sdxl"], indirect=True)
def test_min_snr_weights_each_photo_by_its_timestep(base):
    """Class images in the batch do not change the instance loss; diffusers' script mixes the two up."""
    config, family = make(base, optimization={"snr_gamma": 5.0})
    batch = batch_for(family, class_images=True)
    noised = {}
    add = family.add_noise

    def keep(latents, settings):
        noised["it"] = add(latents, settings)
        return noised["it"]

    family.add_noise = keep
    torch.manual_seed(1)
    _, terms = training_loss(family, batch, config)
    it = replace(noised["it"], crop=batch.crop)
    prediction = family.predict(it, family.encode_prompt(batch.prompt))
    error = (prediction - it.target)[:2] ** 2
    cells = torch.nn.functional.avg_pool2d(batch.mask, family.cell_of(config.model))
    per_photo = (error * cells).sum((1, 2, 3)) / (error.shape[1] * cells.sum((1, 2, 3)))
    alphas = family.scheduler.alphas_cumprod[it.timesteps[:2]]
    snr = alphas / (1 - alphas)
    divisor = snr if family.prediction_type == "epsilon" else snr + 1
    expected = (per_photo * snr.clamp_max(5.0) / divisor).mean()
    torch.testing.assert_close(terms["instance_loss"], expected.detach(), rtol=1e-4, atol=1e-6)


@every_family
@pytest.mark.parametrize("model", [{}, {"train_text_encoder": True}, {"use_lora": True}])
def test_trained_weights_change_and_frozen_ones_do_not(base, model):
    config, family = make(base, model)
    parts = {name: getattr(family, name) for name in (family.denoiser[0], "vae", *family.encoders)}
    before = {f"{part}.{key}": value.clone() for part in parts for key, value in parts[part].state_dict().items()}
    trainable = {
        f"{part}.{key}" for part in parts for key, value in parts[part].named_parameters() if value.requires_grad
    }
    optimizer = torch.optim.AdamW(
        [weight for part in parts.values() for weight in part.parameters() if weight.requires_grad], 1e-2
    )
    used = set()
    for _ in range(3):
        loss, _ = training_loss(family, batch_for(family, class_images=False), config)
        loss.backward()
        for part in parts:
            used |= {
                f"{part}.{key}"
                for key, weight in parts[part].named_parameters()
                if weight.grad is not None and weight.grad.any()
            }
        optimizer.step()
        optimizer.zero_grad()
    changed = {
        f"{part}.{key}"
        for part in parts
        for key, value in parts[part].state_dict().items()
        if not torch.equal(value, before[f"{part}.{key}"])
    }
    assert used <= changed <= trainable
    assert all(any(part in key for part in UNUSED) for key in trainable - used), trainable - used
    assert all("lora" in key for key in trainable) == bool(model.get("use_lora"))


def test_photo_weight_scales_its_loss(models):
    config, family = make(models / "stable-diffusion")
    batch = batch_for(family, class_images=False)

    def loss(first, second):
        torch.manual_seed(1)
        _, terms = training_loss(family, batch._replace(weight=torch.tensor([first, second])), config)
        return terms["instance_loss"].item()

    alone = loss(1.0, 0.0), loss(0.0, 1.0)
    assert loss(0.25, 1.0) == pytest.approx(0.25 * alone[0] + alone[1], rel=1e-5)
