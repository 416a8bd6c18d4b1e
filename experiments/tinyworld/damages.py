"""Damaged subjects: parts doubled, missing, displaced, exchanged or mirrored, as weak models generate them.

A damage turns the parts of a whole subject into those of a damaged one, so that a whole picture and its damaged twin
differ in nothing else. `score.py` says how many of them the measure of wholeness notices.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from subjects import KINDS, Identity, Part, Point, parts_of

Damage = Callable[[Identity, Generator], tuple[Part, ...]]
"""Returns a damaged individual's parts, from back to front."""
_NOT_ESSENTIAL = {"tail", "handle", "antenna", "feet", "straps", "bells", "hat", "ribbon", "flag"}
"""Parts so small or so often hidden that a subject without them still looks whole."""


def doubled(identity: Identity, rng: Generator) -> tuple[Part, ...]:
    """Give a subject a second head, wheel base or spout: a part mirrored, or repeated beside itself."""
    parts = parts_of(identity)
    group = _group(parts, _essential(parts, rng, but=("body",)))
    middle = float(np.mean([x for part in group for x, _ in part.shape]))
    if abs(middle) > 0.2:
        return (*parts, *(_mapped(part, lambda point: (-point[0], point[1])) for part in group))
    shift = rng.choice([-1, 1]) * rng.uniform(0.55, 0.9), rng.uniform(-0.25, 0.1)
    return (*parts, *(_moved(part, shift) for part in group))


def missing(identity: Identity, rng: Generator) -> tuple[Part, ...]:
    """Leave out a part."""
    parts = parts_of(identity)
    lost = _essential(parts, rng)
    return tuple(part for part in parts if _owner(part) != lost)


def displaced(identity: Identity, rng: Generator) -> tuple[Part, ...]:
    """Put a part where it does not belong."""
    parts = parts_of(identity)
    lost, turn = _essential(parts, rng, but=("body",)), rng.uniform(0, 2 * np.pi)
    reach = rng.uniform(0.5, 0.9)
    shift = reach * np.cos(turn), 0.7 * reach * np.sin(turn)
    return tuple(_moved(part, shift) if _owner(part) == lost else part for part in parts)


def exchanged(identity: Identity, rng: Generator) -> tuple[Part, ...]:
    """Replace a part by one of another kind."""
    parts = parts_of(identity)
    lost = _essential(parts, rng)
    other = KINDS[str(rng.choice([kind for kind in KINDS if kind != identity.kind]))].parts
    taken = _group(other, _essential(other, rng))
    return (*(part for part in parts if _owner(part) != lost), *taken)


def erased(identity: Identity, rng: Generator) -> tuple[Part, ...]:
    """Leave out the whole subject; its shadow stays."""
    return ()


def mirrored(identity: Identity, rng: Generator) -> tuple[Part, ...]:
    """Join one half of a subject to its own mirror image: two heads and no tail, or two tails and no head."""
    side = rng.choice([-1, 1])
    halves = []
    for part in parts_of(identity):
        kept = tuple((side * max(side * x, 0.0), y) for x, y in part.shape)
        if max(abs(x) for x, _ in kept) > 0:
            half = replace(part, shape=kept)
            halves += [half, _mapped(half, lambda point: (-point[0], point[1]))]
    return tuple(halves)


DAMAGES: dict[str, Damage] = {
    "doubled": doubled,
    "missing": missing,
    "displaced": displaced,
    "exchanged": exchanged,
    "erased": erased,
    "mirrored": mirrored,
}
ONE_SIDED = ("dog", "duck", "teapot")
"""Kinds that `mirrored` damages; the mirrored halves of the others are nearly a whole subject."""


def _owner(part: Part) -> str:
    return part.name.split("/")[0]


def _group(parts: tuple[Part, ...], owner: str) -> list[Part]:
    return [part for part in parts if _owner(part) == owner]


def _essential(parts: tuple[Part, ...], rng: Generator, but: tuple[str, ...] = ()) -> str:
    """Draw the name of a part without which a subject is not whole."""
    names = dict.fromkeys(_owner(part) for part in parts)
    return str(rng.choice([name for name in names if name not in _NOT_ESSENTIAL and name not in but]))


def _mapped(part: Part, change: Callable[[Point], Point]) -> Part:
    """Return a part with every point changed; it does not swing."""
    return replace(part, shape=tuple(change(point) for point in part.shape), swing=None)


def _moved(part: Part, shift: tuple[float, float]) -> Part:
    return _mapped(part, lambda point: (float(point[0] + shift[0]), float(point[1] + shift[1])))
