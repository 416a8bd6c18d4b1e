"""Curves as SVG, drawn here because Gradio's plot does not show a series that appears after it was first drawn."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 230
LEFT, RIGHT, TOP, BOTTOM = 72, 20, 12, 36
"""Margins for the numbers of the axes, in the units of the picture."""
COLOURS = ("#0d9488", "#d97706", "#7c3aed", "#dc2626", "#2563eb", "#65a30d")
TICKS = 5
MARKED = 30
"""Curves of at most this many points get a dot for each."""


def chart(title: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw curves over a common x axis.

    Args:
        title: is shown above the curves.
        curves: name -> (x, y) pairs by ascending x; of a curve without points only the name is shown.

    Returns:
        HTML with the title, the SVG and the names in the curves' colours; all text is escaped.
    """
    points = [point for curve in curves.values() for point in curve]
    names = "".join(
        f"<span class='name'><i style='background:{_colour(number)}'></i>{escape(name)}</span>"
        for number, name in enumerate(curves)
    )
    head = f"<p class='quiet'>{escape(title)} {names}</p>"
    if not points:
        return f"{head}<p class='quiet'>Nothing to draw yet; it appears here without a reload.</p>"
    across, up = ([point[axis] for point in points] for axis in (0, 1))
    x, y = _Axis(across, LEFT, WIDTH - RIGHT), _Axis(up, HEIGHT - BOTTOM, TOP, to_ticks=True)
    body = "".join(_curve(curve, x, y, _colour(number)) for number, curve in enumerate(curves.values()))
    return f"{head}<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>{_grid(x, y)}{body}</svg>"


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


class _Axis:
    """Maps values to coordinates, from the smallest value at `start` to the largest at `end`.

    With `to_ticks` the range is widened to whole ticks.
    """

    def __init__(self, values: Sequence[float], start: float, end: float, to_ticks: bool = False) -> None:
        self._low, high = min(values), max(values)
        span = high - self._low or 1.0
        self._start, self._end = start, end
        step = 10 ** math.floor(math.log10(span / TICKS))
        step = next(step * factor for factor in (1, 2, 5, 10, 20) if span / (step * factor) <= TICKS)
        if to_ticks:
            self._low = math.floor(self._low / step + 1e-9) * step
            high = math.ceil(high / step - 1e-9) * step
        self._span = high - self._low or 1.0
        self.ticks = [
            number * step for number in range(math.ceil(self._low / step), math.floor(high / step + 1e-9) + 1)
        ]

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) / self._span * (self._end - self._start)


def _grid(x: _Axis, y: _Axis) -> str:
    lines = "".join(
        f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y(tick):.1f}' y2='{y(tick):.1f}'/>"
        f"<text x='{LEFT - 8}' y='{y(tick) + 4:.1f}' text-anchor='end'>{tick:.4g}</text>"
        for tick in y.ticks
    )
    numbers = "".join(
        f"<text x='{x(tick):.1f}' y='{HEIGHT - BOTTOM + 26}' text-anchor='middle'>{tick:.6g}</text>"
        for tick in x.ticks
    )
    return f"{lines}{numbers}<text x='{LEFT - 20}' y='{HEIGHT - BOTTOM + 26}' text-anchor='end'>step</text>"


def _curve(curve: Sequence[tuple[float, float]], x: _Axis, y: _Axis, colour: str) -> str:
    places = [(x(across), y(up)) for across, up in curve]
    line = " ".join(f"{across:.1f},{up:.1f}" for across, up in places)
    dots = "".join(f"<circle cx='{across:.1f}' cy='{up:.1f}' r='3'/>" for across, up in places)
    shown = dots if len(places) <= MARKED else ""
    return f"<g fill='{colour}'><polyline points='{line}' fill='none' stroke='{colour}'/>{shown}</g>"
