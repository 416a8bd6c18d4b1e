"""The masked loss: latent masks, normalizations, and zero gradient outside the mask."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter

from persam_dreambooth.training.losses import (
    background_prior,
    latent_mask,
    loss_weight,
    masked_mse,
    min_snr_weight,
)

CELL, GRID = 4, 3
MASKS = arrays(np.bool_, (CELL * GRID, CELL * GRID))
MODES = ("area", "nearest", "max", "min")


def as_tensor(mask):
    return torch.from_numpy(mask)[None, None].float()


def blocks(mask):
    """Return the pixels of each latent cell, (GRID, GRID, CELL, CELL)."""
    return mask.reshape(GRID, CELL, GRID, CELL).swapaxes(1, 2)


@given(MASKS)
def test_downsampling_modes(mask):
    cells = blocks(mask)
    expected = {
        "area": cells.mean((2, 3)),
        "nearest": cells[..., CELL // 2, CELL // 2],
        "max": cells.any((2, 3)),
        "min": cells.all((2, 3)),
    }
    for mode in MODES:
        ours = latent_mask(as_tensor(mask), (GRID, GRID), mode)[0, 0].numpy()
        np.testing.assert_allclose(ours, expected[mode], atol=1e-6)


@given(MASKS, st.integers(1, 3))
def test_dilation_uses_square(mask, pixels):
    image = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * pixels + 1))
    whole = latent_mask(as_tensor(mask), mask.shape, "area", pixels)[0, 0].numpy()
    np.testing.assert_array_equal(whole > 0, np.asarray(image) > 0)


@given(MASKS, st.floats(0, 1))
def test_background_weight_applies_to_empty_cells(mask, background):
    small = latent_mask(as_tensor(mask), (GRID, GRID))
    weight = loss_weight(small, background)
    assert (weight[small == 1] == 1).all()
    assert torch.allclose(weight[small == 0], torch.tensor(background, dtype=torch.float32))
    assert weight.min() >= 0 and weight.max() <= 1


def random_example(seed=0, batch=3, channels=4):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(batch, channels, GRID, GRID, generator=generator)
    target = torch.randn(batch, channels, GRID, GRID, generator=generator)
    weight = torch.rand(batch, 1, GRID, GRID, generator=generator)
    weight[weight < 0.4] = 0
    return prediction, target, weight


def test_normalizations_by_formula():
    prediction, target, weight = random_example()
    error = ((prediction - target) ** 2 * weight).numpy()
    cells = weight.numpy().sum((1, 2, 3))
    expected = {
        "sample": np.mean(error.sum((1, 2, 3)) / (4 * cells)),
        "batch": error.sum() / (4 * cells.sum()),
        "none": error.mean(),
    }
    for normalization, value in expected.items():
        assert masked_mse(prediction, target, weight, normalization).item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("normalization", ["sample", "batch", "none"])
def test_all_white_mask_gives_plain_loss(normalization):
    prediction, target, weight = random_example()
    plain = F.mse_loss(prediction, target)
    white = masked_mse(prediction, target, torch.ones_like(weight), normalization)
    assert white.item() == pytest.approx(plain.item(), rel=1e-6)
    assert masked_mse(prediction, target).item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalization", ["sample", "batch", "none"])
@pytest.mark.parametrize("mode", MODES)
def test_gradient_is_exactly_zero_outside_mask(mode, normalization, dtype):
    prediction, target, _ = random_example()
    mask = torch.zeros(3, 1, CELL * GRID, CELL * GRID)
    mask[:, :, :CELL, : CELL + 2] = 1  # a whole cell and half of its neighbour
    mask[2] = 1
    weight = loss_weight(latent_mask(mask, (GRID, GRID), mode))
    prediction = prediction.to(dtype).requires_grad_()
    gamma = torch.tensor([0.5, 1.0, 2.0])
    masked_mse(prediction, target.to(dtype), weight, normalization, gamma).backward()
    outside = (weight == 0).expand_as(prediction)
    assert outside.any() and (prediction.grad[outside] == 0.0).all()
    assert (prediction.grad[~outside] != 0.0).all()


@pytest.mark.parametrize("broken", [torch.inf, -torch.inf, torch.nan])
def test_non_finite_values_outside_mask_are_ignored(broken):
    prediction, target, _ = random_example()
    weight = torch.zeros(3, 1, GRID, GRID)
    weight[..., 0] = 1
    prediction[..., 1:] = broken
    prediction.requires_grad_()
    loss = masked_mse(prediction, target, weight)
    loss.backward()
    assert torch.isfinite(loss) and (prediction.grad[..., 1:] == 0).all()


@pytest.mark.parametrize("normalization", ["sample", "batch", "none"])
def test_photo_without_foreground_adds_nothing(normalization):
    prediction, target, _ = random_example(batch=2)
    prediction.requires_grad_()
    loss = masked_mse(prediction, target, torch.zeros(2, 1, GRID, GRID), normalization)
    loss.backward()
    assert loss.item() == 0.0 and (prediction.grad == 0.0).all()


@settings(max_examples=25)
@given(st.integers(1, GRID * GRID), st.integers(1, GRID * GRID))
def test_mask_size_matters_by_batch_but_not_by_sample(first, second):
    weight = torch.zeros(2, 1, GRID * GRID)
    weight[0, 0, :first], weight[1, 0, :second] = 1, 1
    weight = weight.view(2, 1, GRID, GRID)
    prediction, target = torch.zeros(2, 4, GRID, GRID), torch.zeros(2, 4, GRID, GRID)
    prediction[0], prediction[1] = 1.0, 2.0  # squared errors 1 and 4
    assert masked_mse(prediction, target, weight, "sample").item() == pytest.approx(2.5, rel=1e-5)
    expected = (first + 4 * second) / (first + second)
    assert masked_mse(prediction, target, weight, "batch").item() == pytest.approx(expected, rel=1e-5)


def test_background_prior_by_formula():
    prediction, base, mask = random_example()
    gamma = torch.tensor([0.5, 1.0, 2.0])
    error = ((prediction - base) ** 2 * (1 - mask)).sum((1, 2, 3))
    per_photo = error / (4 * (1 - mask).sum((1, 2, 3)))
    torch.testing.assert_close(background_prior(prediction, base, mask), per_photo.mean())
    torch.testing.assert_close(background_prior(prediction, base, mask, gamma), (per_photo * gamma).mean())


@pytest.mark.parametrize("mode", MODES)
def test_background_prior_gradient_is_exactly_zero_inside_mask(mode):
    prediction, base, _ = random_example()
    mask = torch.zeros(3, 1, CELL * GRID, CELL * GRID)
    mask[:, :, :CELL, : CELL + 2] = 1  # a whole cell and half of its neighbour
    mask[2] = 1
    small = latent_mask(mask, (GRID, GRID), mode)
    prediction.requires_grad_()
    base.requires_grad_()
    background_prior(prediction, base, small).backward()
    inside = (small == 1).expand_as(prediction)
    assert inside[:2].any() and inside[2].all()
    assert (prediction.grad[inside] == 0.0).all() and (prediction.grad[~inside] != 0.0).all()
    assert base.grad is None  # the base model gets no gradient


def test_min_snr_weights():
    snr = torch.tensor([0.5, 5.0, 20.0])
    torch.testing.assert_close(min_snr_weight(snr, 5.0, "epsilon"), torch.tensor([1.0, 1.0, 0.25]))
    torch.testing.assert_close(min_snr_weight(snr, 5.0, "v_prediction"), torch.tensor([1 / 3, 5 / 6, 5 / 21]))
