"""The masked latent loss of section 3.4, as pure functions of tensors."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Downsample = Literal["area", "nearest", "max", "min"]
Normalization = Literal["sample", "batch", "none"]


def latent_mask(mask: Tensor, size: tuple[int, int], downsample: Downsample = "area", dilation: int = 0) -> Tensor:
    """Downsample a mask to the latent grid: how much of each latent cell the subject covers.

    Args:
        mask: (B, 1, H, W) float in [0, 1], at the resolution of the crop.
        size: (h, w) of the latents.
        downsample: "area" is the covered share of a cell, "nearest" its centre pixel, "max" whether
            any pixel and "min" whether every pixel of it is covered.
        dilation: number of pixels by which the mask is dilated first, with a square kernel.

    Returns:
        (B, 1, h, w) float32 in [0, 1].
    """
    mask = mask.float()
    if dilation:
        mask = F.max_pool2d(mask, 2 * dilation + 1, stride=1, padding=dilation)
    if downsample == "area":
        return F.adaptive_avg_pool2d(mask, size)
    if downsample == "max":
        return F.adaptive_max_pool2d(mask, size)
    if downsample == "min":
        return 1 - F.adaptive_max_pool2d(1 - mask, size)
    return F.interpolate(mask, size, mode="nearest-exact")


def kept_cells(exclude: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the latent cells that an exclusion mask leaves in the loss.

    Args:
        exclude: (B, 1, H, W) float of 0 and 1, at the resolution of the crop.
        size: (h, w) of the latents.

    Returns:
        (B, 1, h, w) float32: 0 in every cell of which any pixel is excluded, 1 in the others.
    """
    return 1 - (F.adaptive_max_pool2d(exclude.float(), size) > 0).float()


def loss_weight(latent_mask: Tensor, background_weight: float = 0.0) -> Tensor:
    """Weight each latent cell: 1 inside the mask, `background_weight` in [0, 1] outside, a blend in between."""
    return background_weight + (1 - background_weight) * latent_mask


def masked_mse(
    prediction: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    normalization: Normalization = "sample",
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Weighted mean squared error.

    With L the elementwise squared error, C channels and w the weight:

        sample   mean over photos of sum(L w) / (C sum(w)): every photo counts the same
        batch    sum(L w) / (C sum(w)), both over the whole batch: every foreground cell counts the same
        none     mean(L w): the literal reading of the paper

    The gradient with respect to the prediction is exactly 0.0 wherever w is 0, whatever the
    prediction holds there, infinities included. A photo whose weights are all 0 adds 0, never NaN.

    Args:
        prediction: (B, C, h, w), any float dtype; the loss is taken in float32.
        target: (B, C, h, w).
        weight: (B, 1, h, w) float32 in [0, 1]; None is the plain mean squared error.
        normalization: see above.
        sample_weight: (B,) float32, a factor for each photo (min-SNR); None is 1.

    Returns:
        A scalar, float32.
    """
    if weight is None:
        weight = torch.ones_like(prediction[:, :1], dtype=torch.float32)
    difference = torch.where(weight > 0, prediction.float() - target.float(), 0.0)
    channels = prediction.shape[1]
    error = (difference**2 * weight).sum(dim=(1, 2, 3))  # (B,)
    cells = weight.sum(dim=(1, 2, 3))  # (B,)
    if sample_weight is not None:
        error = error * sample_weight
    tiny = torch.finfo(torch.float32).tiny
    if normalization == "sample":
        return (error / (channels * cells).clamp_min(tiny)).mean()
    if normalization == "batch":
        return error.sum() / (channels * cells.sum()).clamp_min(tiny)
    return error.sum() / prediction.numel()


def background_prior(
    prediction: Tensor,
    base: Tensor,
    latent_mask: Tensor,
    sample_weight: Tensor | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """Squared difference between the prediction and the base model's, outside the mask.

    With L their elementwise squared difference, C channels, m the latent mask and k the kept cells: the mean over
    photos of sum(L (1 - m) k) / (C sum((1 - m) k)). The gradient is exactly 0.0 wherever m is 1 or k is 0, and a
    photo that is all subject adds 0.

    Args:
        prediction: (B, C, h, w), any float dtype.
        base: (B, C, h, w), the untrained model's prediction; gets no gradient.
        latent_mask: (B, 1, h, w) float32 in [0, 1].
        sample_weight: (B,) float32, a factor for each photo (min-SNR); None is 1.
        kept: (B, 1, h, w) float32 of 0 and 1, from `kept_cells`; None keeps all.

    Returns:
        A scalar, float32.
    """
    weight = 1 - latent_mask if kept is None else (1 - latent_mask) * kept
    return masked_mse(prediction, base.detach(), weight, "sample", sample_weight)


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Return the min-SNR factor of each photo (arXiv 2303.09556, section 3.4).

    At a ratio of 0 (the last timestep of a zero terminal SNR schedule) "epsilon" takes its limit, 1: for
    every snr <= gamma, min(snr, gamma) / snr = snr / snr = 1. "v_prediction" is 0 there by its formula,
    0 / (0 + 1). At an infinite ratio (no noise at all) both tend to 0, since gamma / snr does.

    Args:
        snr: (B,) float32, signal-to-noise ratio of each photo's own timestep.
        gamma: the ceiling.
        prediction_type: "epsilon" gives min(snr, gamma) / snr, "v_prediction" min(snr, gamma) / (snr + 1).

    Returns:
        (B,) float32.
    """
    if prediction_type == "v_prediction":
        return snr.clamp_max(gamma) / (snr + 1)
    return torch.where(snr > gamma, gamma / snr, 1.0)
