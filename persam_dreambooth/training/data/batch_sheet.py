"""A picture of one batch: each crop under each of its masks, beside the weight of each latent cell."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from persam_dreambooth.photos import files, rendering
from persam_dreambooth.training.config import MaskConfig
from persam_dreambooth.training.data.dataset import Batch
from persam_dreambooth.training.data.mask_report import MASKS_NAME, subject_cells


def save(batch: Batch, config: MaskConfig, cell: int, output: Path) -> Path:
    """Write the instance photos of a batch as `masks.png`, and return its path.

    Args:
        batch: holds pixels, not latents.
        config: how masks become latent masks.
        cell: side of a latent cell in pixels.
        output: the folder.
    """
    assert batch.pixels is not None, "a batch holds pixels or moments"
    count = len(batch.mask)
    latent = subject_cells(batch.mask, batch.exclude, config, cell)
    own = batch.mask if batch.regions is None else batch.regions
    regions = own.split([max(1, len(places)) for places in batch.places])
    pictures = [
        rendering.joined([*(_crop(pixels, mask) for mask in masks), _cells(weights, masks[0])], across=True)
        for pixels, masks, weights in zip(batch.pixels[:count], regions, latent, strict=True)
    ]
    captions = [
        f"{name}  {weights.mean():.0%} of its crop" for name, weights in zip(batch.photos, latent, strict=True)
    ]
    sheet = rendering.sheet(pictures, captions, columns=min(3, count), tile=2 * rendering.TILE)
    files.write_picture(sheet, output / MASKS_NAME)
    return output / MASKS_NAME


def _crop(pixels: Tensor, mask: Tensor) -> Image.Image:
    """Draw a mask, (1, h, w) in [0, 1], over its crop, (3, h, w) in [-1, 1]."""
    picture = F.to_pil_image((pixels.cpu() + 1) / 2)
    return rendering.overlay(picture, mask[0].cpu().numpy() > 0)


def _cells(weights: Tensor, mask: Tensor) -> Image.Image:
    """Draw the weights of the latent cells, (1, h', w') in [0, 1], at the size of the mask, (1, h, w)."""
    levels = (weights[0].cpu().numpy() * 255).round().astype(np.uint8)
    size = (mask.shape[-1], mask.shape[-2])
    return Image.fromarray(levels).convert("RGB").resize(size, Image.Resampling.NEAREST)
