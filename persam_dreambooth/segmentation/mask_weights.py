"""PerSAM-F: the mask weights of equation 11, fitted on the reference photo from one decode.

The decoder gives the same three masks at every step of the fit, so that it is asked once. What is left is a
loss over all pixels of the photo with two unknowns, descended for a thousand steps. A step looks at a sample of the
pixels; a few times on the way the whole photo is looked at, and the sample's gradient is corrected by
the difference there (stochastic variance reduction: Johnson and Zhang 2013). The result is that of a
thousand steps over all pixels to three digits.
"""

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

STEPS = 1000
LEARNING_RATE = 1e-3
"""Both the paper's (section 4.1)."""
SAMPLE = 6000
"""Pixels that every step looks at."""
CORRECTIONS = 5
"""How often the whole photo is looked at."""


def fit_mask_weights(logits: Tensor, foreground: Tensor) -> Tensor:
    """Equation 11: the weights with which the three masks together are closest to the reference mask.

    AdamW (learning rate 1e-3, eps 1e-4, torch's weight decay) under a cosine to zero, dice loss plus
    focal loss, as the authors do.

    Args:
        logits: (3, N) float32, the decoder's three masks at the N pixels of the reference photo.
        foreground: (N,) bool, the reference mask there.

    Returns:
        (3,) float32 that sum to 1: (1 - w1 - w2, w1, w2). They may be negative.
    """
    target = foreground.float()
    chosen = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))[:SAMPLE].to(logits.device)
    sample_logits, sample_target = logits[:, chosen], target[chosen]
    share = len(target) / len(sample_target)
    free = torch.full((2,), 1 / 3, device=logits.device, requires_grad=True)
    optimizer = torch.optim.AdamW([free], lr=LEARNING_RATE, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    correction = torch.zeros_like(free)
    for step in range(STEPS):
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(mask_loss(free, sample_logits, sample_target, share), free)
            if share > 1 and step % (STEPS // CORRECTIONS) == 0:
                (whole,) = torch.autograd.grad(mask_loss(free, logits, target), free)
                correction = whole - gradient
        free.grad = gradient + correction
        optimizer.step()
        schedule.step()
    return three_weights(free.detach())


def three_weights(free: Tensor) -> Tensor:
    """(w1, w2) to (1 - w1 - w2, w1, w2)."""
    return torch.cat([1 - free.sum(0, keepdim=True), free])


def mask_loss(free: Tensor, logits: Tensor, target: Tensor, share: float = 1.0) -> Tensor:
    """`dice_and_focal` of the weighted mask: of (3, N) logits with the (2,) weights w1 and w2."""
    return dice_and_focal(three_weights(free) @ logits, target, share)


def dice_and_focal(mask: Tensor, target: Tensor, share: float = 1.0) -> Tensor:
    """Dice loss (smooth 1) plus focal loss (alpha 0.25, gamma 2): what the authors fit PerSAM-F by.

    Args:
        mask: logits, of any shape.
        target: float in {0, 1}, of the same shape.
        share: how many pixels of the photo each of them stands for.
    """
    inside = mask.sigmoid()
    overlap = (inside * target).sum() * share
    both = (inside.sum() + target.sum()) * share
    dice: Tensor = 1 - (2 * overlap + 1) / (both + 1)
    focal: Tensor = sigmoid_focal_loss(mask, target, alpha=0.25, gamma=2, reduction="mean")
    return dice + focal
