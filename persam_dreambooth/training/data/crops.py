"""Crops: draw their positions, cut them out of photo and mask together, and choose their shapes (aspect buckets)."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.training.config import DataConfig

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Crop:
    """A crop of a photo.

    Attributes:
        photo: size of the upright photo.
        resized: size of the photo after resizing.
        top, left: position of the crop in the resized photo, before mirroring.
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
        """Return SDXL's size and crop conditioning (arXiv 2307.01952, section 2.2).

        Returns:
            (6,) int64: height and width of the photo, top and left of the crop in the resized photo (for a
            mirrored crop: in the mirrored photo, as in diffusers' scripts), height and width of the crop.
        """
        left = self.resized[1] - self.size[1] - self.left if self.mirrored else self.left
        return torch.tensor([*self.photo, self.top, left, *self.size])


def draw_crop(photo: Size, size: Size, config: DataConfig, mask: Tensor | None = None) -> Crop:
    """Draw a crop with the global random generator, in the same way as diffusers' scripts.

    They use torchvision's v1 transforms, which draw both coordinates even if only one can vary:
    with the same draws, the same seed gives the same crops and the same losses.

    Args:
        photo: size of the upright photo.
        size: of the crop; the photo is resized to the smallest size that covers it.
        config: centre or random, mirrored or not.
        mask: the upright photo's, from `cover_mask`. If given and not empty, a crop that would lose a part of the
            subject (levels above half of the brightest) is moved by as little as possible, so that it holds the whole
            subject or, where the subject is larger than the crop, lies within it.
    """
    resized = cover(photo, size)
    spare = [whole - part for whole, part in zip(resized, size, strict=True)]
    if config.center_crop:
        top, left = (round(margin / 2) for margin in spare)
    elif any(spare):
        top, left = (int(torch.randint(0, margin + 1, (1,))) for margin in spare)
    else:
        top, left = 0, 0
    box = None if mask is None else bounding_box(mask > mask.max() / 2)
    if box is not None:
        x_low, y_low, x_high, y_high = box.tolist()
        top, left = _keep(top, y_low, y_high + 1, size[0]), _keep(left, x_low, x_high + 1, size[1])
    mirrored = config.random_flip and bool(torch.rand(1) < 0.5)
    return Crop(photo, resized, top, left, size, mirrored)


def cover(photo: Size, size: Size) -> Size:
    """Return the smallest size of a photo, at its aspect ratio, that covers a crop; one side fits exactly."""
    (height, width), (wanted_height, wanted_width) = photo, size
    if height * wanted_width <= width * wanted_height:
        return wanted_height, max(wanted_width, int(wanted_height * width / height))
    return max(wanted_height, int(wanted_width * height / width)), wanted_width


def cover_mask(mask: Tensor, size: Size) -> Tensor:
    """Resize an upright mask of levels from 0 to 255, (H, W) uint8, as its photo, for `draw_crop` and `cut_mask`."""
    resized = cover((mask.shape[0], mask.shape[1]), size)
    # Plain "nearest" takes the first pixel of each cell, and so shifts the mask by half a cell.
    return F.resize(mask[None], list(resized), v2.InterpolationMode.NEAREST_EXACT)[0]


def _keep(start: int, low: int, high: int, length: int) -> int:
    """Return the start nearest to `start` at which the window contains [low, high) or, if shorter, lies in it."""
    first, last = sorted((low, high - length))
    return min(max(start, first), last)


def cut_photo(photo: Image.Image, crop: Crop, interpolation: str = "bilinear") -> Tensor:
    """Cut the crop out of an upright RGB photo; return (3, h, w) float32 in [-1, 1]."""
    resized = F.resize(photo, list(crop.resized), v2.InterpolationMode(interpolation))
    cut = F.crop(resized, crop.top, crop.left, *crop.size)
    pixels = F.to_image(F.horizontal_flip(cut) if crop.mirrored else cut)
    return F.normalize(F.to_dtype(pixels, torch.float32, scale=True), [0.5], [0.5]).as_subclass(Tensor)


def cut_mask(mask: Tensor, crop: Crop) -> Tensor:
    """Cut the crop out of a mask from `cover_mask`; return (1, h, w) float32 in [0, 1]."""
    cut = F.crop(mask[None], crop.top, crop.left, *crop.size)
    return (F.horizontal_flip(cut) if crop.mirrored else cut).float() / 255


STEP = 64
"""With "auto", sides are multiples of this at resolutions from 256 on, as in other trainers."""


def bucket_sizes(config: DataConfig, unit: int) -> list[Size]:
    """Return the shapes that photos are cropped to.

    Args:
        config: `--aspect_ratio_buckets` is unset (the square of `--resolution`), "auto" or "height,width;...".
        unit: sides must be multiples of it, in pixels.

    Returns:
        (height, width) pairs. With "auto": the square and, for every width from half to twice its side, the largest
            height within the same limits whose area does not exceed the square's. Both are multiples of 64 and of
            `unit`, below a resolution of 256 only of `unit`.

    Raises:
        UserError: the flag cannot be parsed, or a side is not a multiple of `unit`.
    """
    side, given = config.resolution, config.aspect_ratio_buckets
    if given is None:
        return [(side, side)]
    if given == "auto":
        step = math.lcm(STEP, unit) if side >= 4 * STEP else unit
        widths = range(math.ceil(side / 2 / step) * step, 2 * side + 1, step)
        shapes = {(side * side // width // step * step, width) for width in widths}
        return sorted({(side, side), *(shape for shape in shapes if side / 2 <= shape[0] <= 2 * side)})
    try:
        sizes = [(int(height), int(width)) for height, width in (size.split(",") for size in given.split(";"))]
    except ValueError as error:
        raise UserError(f'--aspect_ratio_buckets {given} is neither auto nor "height,width;height,width"') from error
    odd = [side for size in sizes for side in size if side < 1 or side % unit]
    if odd:
        raise UserError(
            f"--aspect_ratio_buckets {given}: {odd[0]} is not a multiple of {unit}, as this model needs; change it"
        )
    return sizes


def nearest_bucket(photo: Size, sizes: Sequence[Size]) -> Size:
    """Return the shape whose aspect ratio is nearest to the photo's; the largest one on a tie."""
    ratio = photo[1] / photo[0]
    return min(sizes, key=lambda size: (abs(math.log(size[1] / size[0] / ratio)), -size[0] * size[1]))


class BucketBatchSampler(BatchSampler):
    """Batch sampler that draws each batch from one bucket; all batches are full.

    At the end of an epoch, an incomplete batch is filled up with items of its bucket, starting from the first.

    Args:
        sampler: the order of items.
        batch_size: items in a batch.
        buckets: item i is in `buckets[i % len(buckets)]`; at least one.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, buckets: Sequence[Hashable]) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self._buckets = buckets

    def __iter__(self) -> Iterator[list[int]]:
        waiting, seen = defaultdict[Hashable, list[int]](list), defaultdict[Hashable, list[int]](list)
        for index in self.sampler:
            bucket = self._of(index)
            seen[bucket].append(index)
            waiting[bucket].append(index)
            if len(waiting[bucket]) == self.batch_size:
                yield waiting.pop(bucket)
        for bucket, left in waiting.items():
            again = seen[bucket] * math.ceil(self.batch_size / len(seen[bucket]))
            yield [*left, *again][: self.batch_size]

    def __len__(self) -> int:
        counts = Counter(self._of(index) for index in range(len(self.sampler)))  # type: ignore[arg-type]
        return sum(math.ceil(count / self.batch_size) for count in counts.values())

    def _of(self, index: int) -> Hashable:
        return self._buckets[index % len(self._buckets)]
