"""Strokes that a person drew in the browser, in pixels of the photo."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from persam_dreambooth.errors import UserError

STROKES = 100
"""Most strokes in one request."""
Kind = Literal["brush", "eraser", "point", "box"]
POINTS = 20_000
"""Most points in one stroke."""


@dataclass(frozen=True)
class Stroke:
    """One gesture, in pixels of the upright photo, where the first pixel covers 0 to 1.

    Attributes:
        kind: brush and eraser are lines, "point" a click, "box" two corners.
        points: (x, y), at least one.
        radius: of brush and eraser.
        label: of a click: 1 on the subject, 0 off it.
    """

    kind: Kind
    points: tuple[tuple[float, float], ...]
    radius: float = 1.0
    label: int = 1

    @classmethod
    def read(cls, given: Any) -> "Stroke":
        """Parse a stroke sent by the browser.

        Raises:
            UserError: it is not a stroke.
        """
        try:
            kind, label = given["kind"], given.get("label", 1)
            if len(given["points"]) > POINTS:
                raise ValueError(f"more than {POINTS} points")
            points = tuple((float(x), float(y)) for x, y in given["points"])
            radius = float(given.get("radius", 1))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError("that is not a valid stroke; reload the page and draw it again") from error
        usual = np.isfinite([*np.ravel(points), radius]).all() and 0 < radius < 1e4 and label in (0, 1)
        if kind not in ("brush", "eraser", "point", "box") or not 0 < len(points) <= POINTS or not usual:
            raise UserError("that is not a valid stroke; reload the page and draw it again")
        return cls(kind, points, radius, int(label))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """XYXY of the bounding box of the stroke."""
        xs, ys = zip(*self.points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def read_strokes(given: Any) -> list[Stroke]:
    """Parse the strokes of one request.

    Raises:
        UserError: they are not valid strokes, or too many.
    """
    if not isinstance(given, list) or len(given) > STROKES:
        raise UserError(f"a gesture is a list of at most {STROKES} strokes; reload the page and draw it again")
    return [Stroke.read(stroke) for stroke in given]


def covered(stroke: Stroke, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels under a brush or eraser, (H, W) bool, for a photo of `size` (width, height)."""
    picture = Image.new("1", size)
    draw = ImageDraw.Draw(picture)
    points = [(x - 0.5, y - 0.5) for x, y in stroke.points]  # Pillow's origin is the first pixel's centre
    if len(points) > 1:
        draw.line(points, fill=1, width=max(1, round(2 * stroke.radius)))
    for point in points:
        draw.circle(point, stroke.radius, fill=1)
    return np.array(picture)


def painted(mask: NDArray[np.bool_], strokes: Sequence[Stroke]) -> NDArray[np.bool_]:
    """Return a mask, (H, W) bool, after brush and eraser strokes."""
    height, width = mask.shape
    for stroke in strokes:
        under = covered(stroke, (width, height))
        mask = mask & ~under if stroke.kind == "eraser" else mask | under
    return mask
