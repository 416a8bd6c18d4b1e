"""PerSAM-F's fit: steps on sampled pixels give the weights of a thousand steps on all pixels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from persam_dreambooth.segmentation import mask_weights
from persam_dreambooth.segmentation.mask_weights import fit_mask_weights


def masks_of_disc(side, seed):
    """Return logits of three smooth, imperfect masks of a disc, (3, pixels), and the disc, (pixels,) bool."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    target = x**2 + y**2 < 0.3
    logits = torch.stack([8 * (radius - x**2 - y**2) for radius in (0.1, 0.25, 0.6)])
    rough = torch.randn(3, 1, 16, 16, generator=generator)
    rough = torch.nn.functional.interpolate(rough, (side, side), mode="bilinear")[:, 0]
    return (logits + 2 * rough).flatten(1), target.flatten()


def by_all_pixels(logits, foreground):
    """Fit as the authors do: every step on all pixels."""
    target = foreground.float()
    free = torch.nn.Parameter(torch.ones(2, 1) / 3)
    optimizer = torch.optim.AdamW([free], lr=1e-3, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    for _ in range(1000):
        weights = torch.cat((1 - free.sum(0).unsqueeze(0), free), dim=0)
        mask = (logits * weights).sum(0)
        inside = mask.sigmoid()
        dice = 1 - (2 * (inside * target).sum() + 1) / (inside.sum() + target.sum() + 1)
        loss = dice + sigmoid_focal_loss(mask, target, 0.25, 2, "mean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return torch.cat([1 - free.detach().sum(0), free.detach()[:, 0]])


@pytest.mark.parametrize("seed", range(2))
def test_sampled_steps_with_five_corrections_match_steps_over_all_pixels(seed):
    logits, target = masks_of_disc(200, seed)
    assert logits.shape[1] > 6 * mask_weights.SAMPLE
    fitted, plain = fit_mask_weights(logits, target), by_all_pixels(logits, target)
    assert (plain - 1 / 3).abs().max() > 0.05  # otherwise nothing was learned
    torch.testing.assert_close(fitted, plain, atol=2e-3, rtol=0)


def test_all_pixels_of_small_photo_are_used():
    logits, target = masks_of_disc(50, 0)
    torch.testing.assert_close(fit_mask_weights(logits, target), by_all_pixels(logits, target), atol=1e-5, rtol=0)


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(3)), st.integers(0, 100))
def test_weights_sum_to_one_and_do_not_worsen_mask(order, seed):
    logits, target = masks_of_disc(40, seed)
    logits = logits[list(order)]
    weights = fit_mask_weights(logits, target)
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    start = mask_weights.mask_loss(torch.full((2,), 1 / 3), logits, target.float())
    assert mask_weights.mask_loss(weights[1:], logits, target.float()) <= start + 1e-6


def test_share_scales_sample_loss_to_whole_photo():
    logits, target = masks_of_disc(40, 0)
    free, target = torch.tensor([0.2, 0.5]), target.float()
    whole = mask_weights.mask_loss(free, logits.repeat(1, 7), target.repeat(7))
    torch.testing.assert_close(mask_weights.mask_loss(free, logits, target, share=7.0), whole)
