"""Subjects that are not whole, drawn: parts doubled, mirrored, missing, moved, of the wrong size, or melted.

Each corruption changes an individual's list of parts before it is drawn, so that scene, pattern, outline and shadow
fit and nothing but the shape gives it away. The kinds in `HELD_OUT` are never trained on: they test whether a network
has learned what a whole subject is, or just what it was shown.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from subjects import ACCESSORIES, Part, Point

Parts = tuple[Part, ...]
ESSENTIAL = 0.03
"""Area in the subject's frame, whose square has 4, from which on a part is missed."""


def groups(parts: Parts) -> list[str]:
    """The names of a subject's own parts that are large enough to be missed: no sub-parts, no accessories."""
    areas: dict[str, float] = {}
    for part in parts:
        areas[part.name] = areas.get(part.name, 0.0) + _area(part)
    return [
        name
        for name, area in areas.items()
        if "/" not in name and name.split("/")[0] not in ACCESSORIES and area >= ESSENTIAL
    ]


def doubled(parts: Parts, rng: Generator) -> Parts:
    """One part, with its sub-parts, once more beside itself."""
    chosen = _pick(parts, rng, but=("body",))
    return (*parts, *_moved(_of(parts, chosen), rng))


def mirrored(parts: Parts, rng: Generator) -> Parts:
    """A part of one side on the other side too, in the place of what was there: a dog with a head at both ends."""
    sided = [name for name in groups(parts) if name != "body" and abs(_centre(_of(parts, name))[0]) > 0.25]
    if not sided:
        return doubled(parts, rng)
    own = _of(parts, str(rng.choice(sided)))
    side = np.sign(_centre(own)[0])
    behind = {name for name in groups(parts) if _centre(_of(parts, name))[0] * side < -0.25 and name != "body"}
    kept = tuple(part for part in parts if part.name.split("/")[0] not in behind or rng.random() < 0.5)
    return (*kept, *(_changed(part, lambda x, y: (-x, y)) for part in own))


def missing(parts: Parts, rng: Generator) -> Parts:
    """One part less, with its sub-parts."""
    gone = _pick(parts, rng)
    return tuple(part for part in parts if part.name.split("/")[0] != gone)


def displaced(parts: Parts, rng: Generator) -> Parts:
    """One part, with its sub-parts, in the wrong place."""
    chosen = _of(parts, _pick(parts, rng, but=("body",)))
    return (*(part for part in parts if part not in chosen), *_moved(chosen, rng))


def resized(parts: Parts, rng: Generator) -> Parts:
    """One part, with its sub-parts, half or twice as large."""
    chosen = _of(parts, _pick(parts, rng))
    factor = float(rng.choice([rng.uniform(0.4, 0.55), rng.uniform(1.7, 2.1)]))
    x0, y0 = _centre(chosen)
    return tuple(
        _changed(part, lambda x, y: (x0 + factor * (x - x0), y0 + factor * (y - y0))) if part in chosen else part
        for part in parts
    )


def overlapped(parts: Parts, rng: Generator) -> Parts:
    """The whole subject twice, half over itself."""
    turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.7)
    dx, dy = reach * np.cos(turn), 0.5 * reach * np.sin(turn)
    return (*(_changed(part, lambda x, y: (x + dx, y + dy)) for part in parts), *parts)


def melted(parts: Parts, rng: Generator) -> Parts:
    """The whole subject bent by waves."""
    phases, pace, height = rng.uniform(0, 2 * np.pi, 2), rng.uniform(4.0, 7.0), rng.uniform(0.16, 0.24)

    def bend(x: float, y: float) -> Point:
        return x + height * np.sin(pace * y + phases[0]), y + height * np.sin(pace * x + phases[1])

    return tuple(_changed(part, bend) for part in parts)


Corruption = Callable[[Parts, Generator], Parts]
TRAINED: dict[str, Corruption] = {"doubled": doubled, "mirrored": mirrored, "missing": missing}
HELD_OUT: dict[str, Corruption] = {
    "displaced": displaced, "resized": resized, "overlapped": overlapped, "melted": melted,
}  # fmt: skip


def _pick(parts: Parts, rng: Generator, but: tuple[str, ...] = ()) -> str:
    return str(rng.choice([name for name in groups(parts) if name not in but]))


def _of(parts: Parts, name: str) -> Parts:
    """A part with its sub-parts."""
    return tuple(part for part in parts if part.name.split("/")[0] == name)


def _moved(parts: Parts, rng: Generator) -> Parts:
    """Parts moved together, towards the other side of the subject's middle or up or down, by about half its size."""
    x0, y0 = _centre(parts)
    turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 0.8)
    dx = np.clip(x0 + reach * np.cos(turn), -0.8, 0.8) - x0
    dy = np.clip(y0 + reach * np.sin(turn), -0.8, 0.7) - y0
    if np.hypot(dx, dy) < 0.4:
        dx = -np.sign(x0 or 1) * 0.6
    return tuple(_changed(part, lambda x, y: (x + dx, y + dy)) for part in parts)


def _changed(part: Part, move: Callable[[float, float], Point]) -> Part:
    swing = None if part.swing is None else (move(*part.swing[0]), part.swing[1])
    return replace(part, shape=tuple(move(x, y) for x, y in part.shape), swing=swing)


def _centre(parts: Parts) -> Point:
    corners = np.concatenate([part.shape for part in parts])
    return float(corners[:, 0].mean()), float(corners[:, 1].mean())


def _area(part: Part) -> float:
    """By the shoelace formula."""
    x, y = np.array(part.shape).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
