"""Measures of generated images: scene, kind, pattern, and the subject's colours inside and outside its mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms
from scipy.ndimage import center_of_mass, shift
from torch.nn.functional import max_pool2d

from corpus import image_pixels
from judge import Judge
from loading import load
from models import JUDGE
from persam_dreambooth.images import mask_iou
from recipes import KIND_NAMES, SCENES
from subjects import COLOURS, PATTERNS, Identity

NEAR = 24.0
"""Colours closer than this in CIELAB count as the same colour in different light."""
MARGIN = 3
"""Pixels around the subject that count as neither subject nor background."""


@dataclass(frozen=True)
class Measured:
    """The measures of one generated image.

    Attributes:
        scene: the scene that the judge sees.
        kind, pattern: the subject's kind and pattern that it sees.
        colours: (2,) shares of the subject's pixels that have its main and its second colour.
        bleeding: share of the background's pixels that have one of these colours.
        found: share of the image that the judge marks as the subject.
    """

    scene: str
    kind: str
    pattern: str
    colours: tuple[float, float]
    bleeding: float
    found: float


@cache
def the_judge() -> Judge:
    """Load the committed judge."""
    return load(Judge, JUDGE).float().eval()


@torch.no_grad()
def measure(images: Sequence[Image.Image], identity: Identity) -> list[Measured]:
    """Measure images that should show one individual."""
    pixels = image_pixels(images)
    verdict = the_judge()(pixels)
    inside = verdict.mask > 0
    outside = max_pool2d(inside.float(), 2 * MARGIN + 1, 1, MARGIN) == 0
    measured = []
    for number in range(len(images)):
        near = colour_maps(pixels[number], identity)
        own, rest = inside[number, 0].numpy(), outside[number, 0].numpy()
        shares = [float(near[:, own][place].mean()) if own.any() else 0.0 for place in (0, 1)]
        measured.append(
            Measured(
                SCENES[int(verdict.scene[number].argmax())],
                KIND_NAMES[int(verdict.kind[number].argmax())],
                PATTERNS[int(verdict.pattern[number].argmax())],
                (shares[0], shares[1]),
                float(near[:, rest].any(0).mean()) if rest.any() else 0.0,
                float(own.mean()),
            )
        )
    return measured


@torch.no_grad()
def pose_distances(images: Sequence[Image.Image], photos: Sequence[Image.Image]) -> list[float]:
    """Return for each image how far its subject's outline is from that of the nearest photo, in [0, 1].

    The distance is 1 - IoU of the outlines that the judge marks, moved to a common centre: 0 for a copied photo.
    """
    known = _outlines(photos)
    return [min(1 - mask_iou(own, photo) for photo in known) for own in _outlines(images)]


def _outlines(images: Sequence[Image.Image]) -> list[NDArray[np.bool_]]:
    """Return the outlines that the judge marks, each with its centre of mass in the middle of a (64, 64) mask."""
    pixels = image_pixels(images)
    masks = (the_judge()(pixels).mask[:, 0] > 0).numpy()
    middle = np.array([(side - 1) / 2 for side in masks.shape[1:]])
    centres = [center_of_mass(mask) if mask.any() else middle for mask in masks]
    return [shift(mask, np.rint(middle - centre), order=0) for mask, centre in zip(masks, centres, strict=True)]


def colour_maps(pixels: torch.Tensor, identity: Identity) -> NDArray[np.bool_]:
    """Return (2, h, w) bool: where a (3, h, w) image in [-1, 1] has the individual's main and second colour."""
    return _near(pixels, [COLOURS[identity.main], COLOURS[identity.second]])


def _near(pixels: torch.Tensor, colours: Sequence[tuple[int, int, int]]) -> NDArray[np.bool_]:
    """Return (N, h, w) bool: where a (3, h, w) image in [-1, 1] has each of N colours, RGB in [0, 255]."""
    levels = ((pixels.permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).byte().numpy()
    lab, wanted = _lab(levels), _lab(np.array([colours], dtype=np.uint8))[0]
    # Lightness counts half, because the same colour is darker at night.
    distance = np.linalg.norm((lab[None] - wanted[:, None, None]) * [0.5, 1.0, 1.0], axis=-1)
    return distance < NEAR


def _lab(levels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Convert (h, w, 3) uint8 sRGB to CIELAB: L in [0, 100], a and b in [-128, 127]."""
    stored = np.asarray(ImageCms.applyTransform(Image.fromarray(levels), _to_lab())).astype(np.float64)
    a, b = (np.where(stored[..., axis] > 127, stored[..., axis] - 256, stored[..., axis]) for axis in (1, 2))
    return np.stack([stored[..., 0] / 2.55, a, b], axis=-1)


@cache
def _to_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")


def fidelity(measured: Measured, identity: Identity, true_colours: tuple[float, float]) -> dict[str, float]:
    """Return the fidelity to the individual, in [0, 1]: of kind, pattern and colours, and their mean.

    Args:
        measured: one image.
        identity: the individual that it should show.
        true_colours: `Measured.colours` of the subject's own photos, averaged.
    """
    shown = sum(min(found, true) for found, true in zip(measured.colours, true_colours, strict=True))
    parts = {
        "kind": float(measured.kind == identity.kind),
        "pattern": float(measured.pattern == identity.pattern),
        "colours": shown / max(sum(true_colours), 1e-6),
    }
    return parts | {"fidelity": sum(parts.values()) / 3}


def interval(values: Sequence[float], draws: int = 4000) -> tuple[float, float, float]:
    """Return the mean and the ends of its 95 % interval, by bootstrap over the values."""
    numbers = np.asarray(values, dtype=float)
    picks = np.random.default_rng(0).integers(len(numbers), size=(draws, len(numbers)))
    low, high = np.percentile(numbers[picks].mean(axis=1), [2.5, 97.5])
    return float(numbers.mean()), float(low), float(high)


def percent(values: Sequence[float]) -> str:
    """Format a mean and its interval: "87.5 % [80.1, 93.0]"."""
    mean, low, high = (100 * value for value in interval(values))
    return f"{mean:.1f} % [{low:.1f}, {high:.1f}]"
