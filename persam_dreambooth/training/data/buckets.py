"""Aspect-ratio buckets: each photo is cropped to the nearest of a few shapes, and a batch has one shape."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence

from torch.utils.data import BatchSampler, Sampler

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import DataConfig
from persam_dreambooth.training.data.crops import Size

STEP = 64
"""With "auto", sides are multiples of this, as in other trainers, from a resolution of 256 on."""


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
            f"--aspect_ratio_buckets {given}: {odd[0]} is not a multiple of {unit}, which this model needs"
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
