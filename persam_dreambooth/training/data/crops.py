"""Where a training picture lies in its photo, and how photo and mask are cut out there, always together."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.training.config import DataConfig

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Crop:
    """A place in a photo.

    Attributes:
        photo: size of the upright photo.
        resized: size of it after resizing.
        top, left: of the crop in the resized photo, before it is mirrored.
        size: of the crop.
        mirrored: whether the crop is then mirrored.
    """

    photo: Size
    resized: Size
    top: int
    left: int
    size: Size
    mirrored: bool = False

    def conditioning(self) -> Tensor:
        """SDXL's size and crop conditioning (arXiv 2307.01952, section 2.2).

        Returns:
            (6,) int64: height and width of the photo, top and left of the crop in the resized photo (of a
            mirrored crop: in the mirrored one, as in diffusers' scripts), height and width of the crop.
        """
        left = self.resized[1] - self.size[1] - self.left if self.mirrored else self.left
        return torch.tensor([*self.photo, self.top, left, *self.size])


def draw_crop(photo: Size, size: Size, config: DataConfig, mask: Tensor | None = None) -> Crop:
    """Draw a crop with the global random generator, as diffusers' scripts draw theirs.

    They use torchvision's first transforms, which draw both coordinates even where one has no choice:
    with the same draws, the same seed gives the same crops and the same losses.

    Args:
        photo: its size, upright.
        size: the crop's; the photo is resized by as little as covers it.
        config: centre or random, mirrored or not.
        mask: the upright photo's, by `cover_mask`; where it is given, and not empty, a crop that would lose a part
            of the subject is moved by as little as keeps all of it, or fills the crop with it.
    """
    resized = cover(photo, size)
    spare = [whole - part for whole, part in zip(resized, size, strict=True)]
    if config.center_crop:
        top, left = (round(one / 2) for one in spare)
    elif any(spare):
        top, left = (int(torch.randint(0, one + 1, (1,))) for one in spare)
    else:
        top, left = 0, 0
    box = None if mask is None else bounding_box(mask)
    if box is not None:
        x_low, y_low, x_high, y_high = box.tolist()
        top, left = _keep(top, y_low, y_high + 1, size[0]), _keep(left, x_low, x_high + 1, size[1])
    mirrored = config.random_flip and bool(torch.rand(1) < 0.5)
    return Crop(photo, resized, top, left, size, mirrored)


def cover(photo: Size, size: Size) -> Size:
    """The size to which a photo is resized to cover a crop, in one direction exactly."""
    (height, width), (wanted_height, wanted_width) = photo, size
    if height * wanted_width <= width * wanted_height:
        return wanted_height, max(wanted_width, int(wanted_height * width / height))
    return max(wanted_height, int(wanted_width * height / width)), wanted_width


def cover_mask(mask: Tensor, size: Size) -> Tensor:
    """An upright mask of 0 and 1, (H, W) uint8, resized as its photo is; what `draw_crop` and `cut_mask` take."""
    resized = cover((mask.shape[0], mask.shape[1]), size)
    # "Nearest" alone takes each place's first pixel, and so moves the mask by half a place.
    return F.resize(mask[None], list(resized), v2.InterpolationMode.NEAREST_EXACT)[0]


def _keep(start: int, low: int, high: int, length: int) -> int:
    """The start nearest to `start` where a window so long holds [low, high), or lies in it if that is longer."""
    first, last = sorted((low, high - length))
    return min(max(start, first), last)


def cut_photo(photo: Image.Image, crop: Crop, interpolation: str = "bilinear") -> Tensor:
    """The crop of an upright RGB photo, (3, h, w) float32 in [-1, 1]."""
    resized = F.resize(photo, list(crop.resized), v2.InterpolationMode(interpolation))
    cut = F.crop(resized, crop.top, crop.left, *crop.size)
    pixels = F.to_image(F.horizontal_flip(cut) if crop.mirrored else cut)
    return F.normalize(F.to_dtype(pixels, torch.float32, scale=True), [0.5], [0.5]).as_subclass(Tensor)


def cut_mask(mask: Tensor, crop: Crop) -> Tensor:
    """The crop of a photo's mask by `cover_mask`, (1, h, w) float32 of 0 and 1."""
    cut = F.crop(mask[None], crop.top, crop.left, *crop.size)
    return (F.horizontal_flip(cut) if crop.mirrored else cut).float()
