"""Turn clicks, boxes and scribbles from the browser into masks, with a SAM that is loaded on first use."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import EncodedPhoto, PerSAM, Prompts, reference_from
from persam_dreambooth.segmentation.refinement import CERTAINTY, as_logits

STROKES = 100
"""Maximum number of strokes in one request."""
Kind = Literal["brush", "eraser", "point", "box"]
POINTS = 20_000
"""Maximum number of points in one stroke."""


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


KEPT = 4
"""Number of encoded photos that are kept for the next click."""
PIECES = 256
"""Resolution, in pixels per side, at which connected pieces of a difference are separated."""


class Clicker:
    """One SAM, used by one thread at a time.

    Args:
        load: returns the PerSAM.
    """

    def __init__(self, load: Callable[[], PerSAM]) -> None:
        self._load, self._turn = load, threading.RLock()
        self._persam: PerSAM | None = None
        self._encoded: OrderedDict[str, EncodedPhoto] = OrderedDict()

    def first(self, photo: Path, strokes: Sequence[Stroke]) -> NDArray[np.bool_]:
        """Find the mask of a subject marked by points, one box, or brush strokes.

        Returns:
            (H, W) bool.

        Raises:
            UserError: see `reference_from`.
        """
        image = files.read_photo(photo)
        boxes = [stroke.box for stroke in strokes if stroke.kind == "box"]
        clicks = [stroke for stroke in strokes if stroke.kind == "point"]
        brushes = [covered(stroke, image.size) for stroke in strokes if stroke.kind == "brush"]
        if len(boxes) > 1:
            raise UserError(
                "several boxes were drawn, but only one can mark the subject; clear the drawing and draw it again"
            )
        if not boxes and not brushes and not any(stroke.label for stroke in clicks):
            raise UserError("nothing marks the subject; click on it, draw a box around it, or paint on it")
        box = _inside(boxes[0], image.size) if boxes else None
        with self._turn:
            if brushes:
                return reference_from(self._sam(), image, box, scribble=np.any(brushes, axis=0)).foreground
            points, labels = [stroke.points[0] for stroke in clicks], [stroke.label for stroke in clicks]
            return reference_from(self._sam(), image, box, points or None, labels).foreground

    @torch.no_grad()
    def again(
        self, photo: Path, mask: NDArray[np.bool_], clicks: Sequence[tuple[float, float, int]]
    ) -> tuple[NDArray[np.bool_], float]:
        """Correct a mask by a click that adds or removes what it lies on.

        SAM is prompted with the mask and all clicks; of its changes only the connected piece under the last click is
        applied, so that a click does not undo brush strokes elsewhere.

        Args:
            photo: the file.
            mask: (H, W) bool, the current mask.
            clicks: (x, y, label) in pixels of the upright photo, the new one last.

        Returns:
            (H, W) bool and SAM's predicted IoU.

        Raises:
            UserError: the click lies outside the photo, or SAM does not follow it.
        """
        height, width = mask.shape
        x, y, label = (int(value) for value in clicks[-1])
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"the click ({x}, {y}) lies outside the photo of {width} x {height} pixels; click inside")
        if mask[y, x] == label:
            where = "in" if label else "outside"
            raise UserError(f"that place is already {where} the mask; click where the mask is wrong")
        with self.using(photo) as (persam, encoded):
            points = encoded.frame.to_model(torch.tensor([click[:2] for click in clicks], dtype=torch.float64))
            labels = torch.tensor([int(click[2]) for click in clicks])
            attempts = [as_logits(mask, encoded, CERTAINTY, "area"), None] if mask.any() else [None]
            for before in attempts:  # the mask can outweigh the click; then try the clicks alone
                prompts = Prompts(points, labels, None, before)
                logits, scores = persam.backbone.decode(encoded.embedding, prompts, False, extra=encoded.extra)
                answer = (encoded.frame.to_original(logits[:1])[0] > 0).cpu().numpy()
                if answer[y, x] == label:
                    return mask ^ _piece(answer != mask, (x, y)), float(scores[0])
        raise UserError("SAM does not follow that click; use the brush or the eraser there")

    @contextmanager
    def using(self, photo: Path) -> Iterator[tuple[PerSAM, EncodedPhoto]]:
        """Yield the PerSAM and a photo that it has encoded; other threads wait until the block ends."""
        with self._turn:
            yield self._sam(), self._encode(photo)

    def _encode(self, photo: Path) -> EncodedPhoto:
        key = files.digest(photo)
        if key not in self._encoded:
            self._encoded[key] = self._sam().encode([files.read_photo(photo)])[0]
            while len(self._encoded) > KEPT:
                self._encoded.popitem(last=False)
        self._encoded.move_to_end(key)
        return self._encoded[key]

    def _sam(self) -> PerSAM:
        if self._persam is None:
            self._persam = self._load()
        return self._persam


def _piece(difference: NDArray[np.bool_], place: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the connected piece of an (H, W) bool map at (x, y), at a resolution of a few hundred pixels."""
    picture = Image.fromarray(difference.astype(np.uint8) * 255)
    factor = max(1, max(picture.size) // PIECES)
    small = picture.reduce(factor).point(lambda level: 255 if level else 0)
    at = min(place[0] // factor, small.width - 1), min(place[1] // factor, small.height - 1)
    ImageDraw.floodfill(small, at, 128)
    piece = small.point(lambda level: 255 if level == 128 else 0)
    whole = piece.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)
    return np.asarray(whole.crop((0, 0, *picture.size))).astype(bool) & difference


def _inside(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Clip a box to the photo."""
    left, top, right, bottom = box
    return max(0.0, left), max(0.0, top), min(float(size[0]), right), min(float(size[1]), bottom)
