"""A mean over prompts and how far it may be off: bootstrap over prompts, since pictures of one prompt are alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

DRAWS: Final = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        mean: over prompts, of each prompt's mean over its pictures.
        low, high: the 2.5th and 97.5th percentile of the mean when prompts are drawn again, with replacement; None
            where there is one prompt only, about which nothing can be said.
        prompts: how many have a value.
        values: how many values they have together.
    """

    mean: float
    low: float | None
    high: float | None
    prompts: int
    values: int


def estimate(by_prompt: Sequence[Sequence[float]]) -> Estimate | None:
    """Mean and percentile bootstrap interval (Efron 1979), always the same for the same values.

    Args:
        by_prompt: each prompt's values; a prompt without any is left out.

    Returns:
        None where no prompt has a value.
    """
    means = np.array([np.mean(values) for values in by_prompt if len(values)])
    if not len(means):
        return None
    low = high = None
    if len(means) > 1:
        picks = np.random.default_rng(0).integers(len(means), size=(DRAWS, len(means)))
        low, high = (float(end) for end in np.percentile(means[picks].mean(axis=1), [2.5, 97.5]))
    return Estimate(float(means.mean()), low, high, len(means), sum(map(len, by_prompt)))


def difference(ours: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> Estimate | None:
    """What one model's values have over another's on the same prompts: the estimate of the paired difference.

    Args:
        ours, others: values of the same prompts in the same order; prompts that lack them on either side are left out.
    """
    pairs = zip(ours, others, strict=True)
    return estimate([[float(np.mean(one) - np.mean(other))] for one, other in pairs if len(one) and len(other)])
