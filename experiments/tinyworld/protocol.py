"""Compare ways of training along their whole frontier, at matched identity, paired by subject.

A run is judged at several lengths, so a way of training is a curve from "the subject is not learned" to "the model
only repeats the photos", and not a single point that depends on the learning rate. A curve's corners are the lengths;
between two neighbouring lengths it is a straight line. Everything here is plain arithmetic on such curves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 101
"""Identity levels at which the area's integral is taken."""
SHARE = 0.8
"""Share of the oracle's value that counts as good enough."""
DRAWS = 2000


@dataclass(frozen=True)
class Curve:
    """One training judged at several lengths.

    Attributes:
        steps: (n,) increasing numbers of optimizer steps.
        values: (n,) numbers in [0, 1] for each measure, among them "identity", how far the images show the right
            individual, and "scene", the share that shows the prompted scene.
    """

    steps: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]

    def __post_init__(self) -> None:
        if len(self.steps) == 0 or (np.diff(self.steps) <= 0).any():
            raise ValueError("a curve's steps increase")
        if not {"identity", "scene"} <= set(self.values):
            raise ValueError("a curve has an identity and a scene accuracy at each of its steps")
        if any(len(values) != len(self.steps) for values in self.values.values()):
            raise ValueError("a curve has one value of each measure at each of its steps")

    @property
    def identity(self) -> NDArray[np.float64]:
        """(n,) how far the images show the right individual."""
        return self.values["identity"]

    @property
    def scene(self) -> NDArray[np.float64]:
        """(n,) share of the images that show the prompted scene."""
        return self.values["scene"]


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Average curves of one way of training over subjects and seeds; all have the same steps."""
    if any(not np.array_equal(curve.steps, curves[0].steps) for curve in curves):
        raise ValueError("only curves of the same steps can be averaged")
    names = curves[0].values
    return Curve(curves[0].steps, {name: np.mean([curve.values[name] for curve in curves], axis=0) for name in names})


def at_identity(curve: Curve, measure: str, level: float) -> float:
    """Return a measure at the shortest training whose identity reaches a level: "train until learned, then stop".

    Args:
        curve: the curve of one way of training.
        measure: a key of `Curve.values`.
        level: the identity to reach, in [0, 1].

    Returns:
        The measure where the curve first crosses the level, interpolated between two lengths; NaN if it never does.
    """
    values = curve.values[measure]
    reached = np.flatnonzero(curve.identity >= level)
    if not len(reached):
        return float("nan")
    after = reached[0]
    if after == 0:
        return float(values[0])
    share = (level - curve.identity[after - 1]) / (curve.identity[after] - curve.identity[after - 1])
    return float(values[after - 1] + share * (values[after] - values[after - 1]))


def frontier(curve: Curve, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each identity level, the best scene accuracy of any point on a curve that reaches it.

    This is the frontier as a function that falls with the level. A curve that crosses a level is cut there.

    Args:
        curve: the curve of one way of training.
        levels: (m,) identities to reach, in [0, 1].

    Returns:
        (m,) scene accuracies in [0, 1]; NaN where no point of the curve reaches the level.
    """
    wanted = levels[:, None]
    first, second = curve.identity[:-1], curve.identity[1:]
    crossed = (first < wanted) != (second < wanted)
    rise = np.where(first == second, 1, second - first)  # a level side crosses nothing
    cuts = curve.scene[:-1] + (wanted - first) / rise * np.diff(curve.scene)
    corners = np.where(curve.identity >= wanted, curve.scene, -np.inf)
    found = np.concatenate([corners, np.where(crossed, cuts, -np.inf)], axis=1).max(axis=1)
    return np.where(np.isneginf(found), np.nan, found)


def area(curve: Curve) -> float:
    """Return the area under the frontier, in [0, 1]: scene accuracy over identity levels 0 to 1, 0 if not reached."""
    levels = np.linspace(0, 1, LEVELS)
    return float(np.trapezoid(np.nan_to_num(frontier(curve, levels)), levels))


def best(curve: Curve) -> dict[str, float]:
    """Return the highest identity and the highest scene accuracy of any length; used for the oracle."""
    return {name: float(curve.values[name].max()) for name in ("identity", "scene")}


def window(curve: Curve, oracle: Mapping[str, float], share: float = SHARE) -> tuple[float, float] | None:
    """Return the usable window: the widest range of steps in which identity and scene accuracy are both good enough.

    Between lengths, both are interpolated over the logarithm of the steps, because each length doubles the one before.

    Args:
        curve: the curve of one way of training at one learning rate.
        oracle: the oracle's values, from `best`.
        share: the share of the oracle's values that is good enough.

    Returns:
        First and last step of the window; None if no length is good enough.
    """
    logs = np.log(curve.steps)
    fine = np.unique(np.concatenate([np.linspace(logs[0], logs[-1], 2001), logs]))
    usable = np.ones(len(fine), dtype=bool)
    for name, reached in oracle.items():
        usable &= np.interp(fine, logs, curve.values[name]) >= share * reached
    if not usable.any():
        return None
    edges = np.flatnonzero(np.diff(np.concatenate([[0], usable.astype(int), [0]])))
    ranges = [(fine[first], fine[after - 1]) for first, after in edges.reshape(-1, 2)]
    first, last = max(ranges, key=lambda ends: ends[1] - ends[0])
    return float(np.exp(first)), float(np.exp(last))


def doublings(curve: Curve, oracle: Mapping[str, float], share: float = SHARE) -> float:
    """Return the width of the usable window in doublings: 1 from 100 to 200, 3 from 100 to 800; 0 without a window."""
    found = window(curve, oracle, share)
    return float(np.log2(found[1] / found[0])) if found else 0.0


def paired(
    measure: Callable[[Sequence[str]], float], subjects: Sequence[str], draws: int = DRAWS
) -> tuple[float, float, float]:
    """Return a measure over all subjects, and its 95 % interval by bootstrap over subjects.

    Both arms of a comparison are computed on the same draws of subjects, which pairs them.

    Args:
        measure: maps names of subjects, with repeats, to a number; NaN if it is not defined.
        subjects: the names.
        draws: number of bootstrap draws.

    Returns:
        Value, low end, high end; the ends are NaN if more than one draw in twenty is NaN.
    """
    picks = np.random.default_rng(0).integers(len(subjects), size=(draws, len(subjects)))
    distinct, which = np.unique(np.sort(picks), axis=0, return_inverse=True)  # few subjects have few distinct draws
    values = np.array([measure([subjects[place] for place in pick]) for pick in distinct])[which.ravel()]
    known = values[~np.isnan(values)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) >= 0.95 * draws else (np.nan, np.nan)
    return measure(subjects), float(low), float(high)
