"""A mean over prompts and how far it may be off: bootstrap over prompts, since pictures of one prompt are alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

DRAWS: Final = 10_000
Z: Final = 1.959964  # the normal distribution's 97.5 % point
FEW: Final = 8
"""With fewer prompts a bootstrap interval is too narrow to call a difference significant."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        mean: over prompts, of each prompt's mean over its pictures.
        low, high: the 2.5th and 97.5th percentile of the mean when prompts are drawn again, with replacement; None
            where there is one prompt only, or all have the same mean, about which a bootstrap can say nothing. A
            share of none or all pictures has Wilson's interval.
        prompts: how many have a value.
        values: how many values they have together.
    """

    mean: float
    low: float | None
    high: float | None
    prompts: int
    values: int


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212), which is never of length 0.

    Args:
        hits: how many of `count` (at least 1) are counted.
    """
    share, weight = hits / count, Z * Z / count
    middle = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * (share * (1 - share) / count + weight / (4 * count)) ** 0.5
    # Of none and of all one end is the share itself, but for rounding.
    return middle - half if hits else 0.0, middle + half if hits < count else 1.0


def estimate(by_prompt: Sequence[Sequence[float]], share: bool = False) -> Estimate | None:
    """Mean and percentile bootstrap interval (Efron 1979), always the same for the same values.

    Args:
        by_prompt: each prompt's values; a prompt without any is left out.
        share: the values are 0 or 1, and their mean a share of pictures.

    Returns:
        None where no prompt has a value.
    """
    means = np.array([np.mean(values) for values in by_prompt if len(values)])
    if not len(means):
        return None
    low = high = None
    values = sum(map(len, by_prompt))
    if share and means.min() == means.max() and means[0] in (0, 1):
        low, high = wilson(int(means[0]) * values, values)
    elif len(means) > 1 and means.max() - means.min() > 1e-9:  # more than rounding
        picks = np.random.default_rng(0).integers(len(means), size=(DRAWS, len(means)))
        low, high = (float(end) for end in np.percentile(means[picks].mean(axis=1), [2.5, 97.5]))
    return Estimate(float(means.mean()), low, high, len(means), values)


def difference(ours: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> Estimate | None:
    """What one model's values have over another's on the same prompts: the estimate of the paired difference.

    Args:
        ours, others: values of the same prompts in the same order; prompts that lack them on either side are left out.
    """
    pairs = zip(ours, others, strict=True)
    return estimate([[float(np.mean(one) - np.mean(other))] for one, other in pairs if len(one) and len(other)])
