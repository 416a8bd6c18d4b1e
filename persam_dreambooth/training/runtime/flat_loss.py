"""Warn during training that the loss does not fall, or that it rises.

A step's loss depends mostly on its noise level, so a mean that looks flat may only be noisy. The warning is given only
if the loss has significantly fallen by less than a tenth: if the upper end of the fall's one-sided 99.5 % confidence
interval, from the logarithms of the first and of the last third of the losses, is below a tenth.
"""

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Literal

FIRST_LOOK = 100
"""Number of steps after which the loss is judged first; then each time after twice as many."""
FALL = 0.1
"""Smallest fall, as a share of the loss at the start, that is not called flat."""
WORDS = {
    "risen": "the loss has risen over the first {steps} steps; lower --learning_rate (two- to tenfold)",
    "flat": f"the loss has fallen by less than {FALL:.0%} in {{steps}} steps; if the validation images do not show "
    "the subject either, raise --learning_rate (two- to fivefold) and look at masks.png; if they do, all is well",
}
Z = 2.5758  # the normal distribution's 99.5 % point: several looks are taken in a run


def verdict(losses: Sequence[float]) -> Literal["flat", "risen"] | None:
    """Return whether the loss has significantly risen, or fallen by less than `FALL`, in the geometric mean."""
    third = len(losses) // 3
    if third < 2 or min(losses) <= 0:
        return None
    first, last = ([math.log(loss) for loss in part] for part in (losses[:third], losses[-third:]))
    error = math.sqrt((variance(first) + variance(last)) / third)
    most = fmean(first) - fmean(last) + Z * error  # the fall's upper end
    return "risen" if most < 0 else "flat" if most < -math.log(1 - FALL) else None


class FlatLoss:
    """Judges the losses of a run after 100, 200, 400, ... steps, and warns at most once."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._next, self._told = FIRST_LOOK, False

    def add(self, loss: float) -> str | None:
        """Take a step's loss; return a warning if it is time for one."""
        self._losses.append(loss)
        if self._told or len(self._losses) < self._next:
            return None
        self._next *= 2
        found = verdict(self._losses)
        self._told = found is not None
        return None if found is None else WORDS[found].format(steps=len(self._losses))
