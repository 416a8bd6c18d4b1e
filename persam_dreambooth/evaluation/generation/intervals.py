"""Means over prompts with confidence intervals, bootstrapped over prompts: pictures of one prompt are correlated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

DRAWS: Final = 10_000
Z: Final = 1.959964  # the normal distribution's 97.5 % point
FEW: Final = 8
"""With fewer prompts than this, a bootstrap interval is too narrow to call a difference significant."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        mean: mean over prompts of each prompt's mean over its pictures.
        low, high: 2.5th and 97.5th percentile of the mean when prompts are resampled with replacement. None for a
            single prompt, or if all prompts have the same mean, when a bootstrap is uninformative; a share of none
            or all pictures has Wilson's interval instead.
        prompts: number of prompts with a value.
        values: total number of values.
    """

    mean: float
    low: float | None
    high: float | None
    prompts: int
    values: int


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212), never of length 0.

    Args:
        hits: number of hits.
        count: number of trials, at least 1.
    """
    share, weight = hits / count, Z * Z / count
    middle = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * (share * (1 - share) / count + weight / (4 * count)) ** 0.5
    # For no hits or all hits, one end is the share itself except for rounding.
    return middle - half if hits else 0.0, middle + half if hits < count else 1.0


def estimate(by_prompt: Sequence[Sequence[float]], share: bool = False) -> Estimate | None:
    """Compute the mean and percentile bootstrap interval (Efron 1979), deterministic for the same values.

    Args:
        by_prompt: each prompt's values; prompts without values are left out.
        share: the values are 0 or 1, and their mean is a share of pictures.

    Returns:
        The estimate; None if no prompt has a value.
    """
    means = np.array([np.mean(values) for values in by_prompt if len(values)])
    if not len(means):
        return None
    low = high = None
    values = sum(map(len, by_prompt))
    if share and means.min() == means.max() and means[0] in (0, 1):
        low, high = wilson(int(means[0]) * values, values)
    elif len(means) > 1 and means.max() - means.min() > 1e-9:  # beyond rounding errors
        picks = np.random.default_rng(0).integers(len(means), size=(DRAWS, len(means)))
        low, high = (float(end) for end in np.percentile(means[picks].mean(axis=1), [2.5, 97.5]))
    return Estimate(float(means.mean()), low, high, len(means), values)


def difference(ours: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> Estimate | None:
    """Estimate the paired difference, ours minus others, between two models on the same prompts.

    Args:
        ours, others: values of the same prompts in the same order; prompts without values on either side are left
            out.
    """
    pairs = zip(ours, others, strict=True)
    return estimate([[float(np.mean(mine) - np.mean(theirs))] for mine, theirs in pairs if len(mine) and len(theirs)])
