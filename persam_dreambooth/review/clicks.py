"""Clicks, boxes and scribbles to masks, by a SAM that is loaded when it is first needed."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.review.strokes import Stroke, covered
from persam_dreambooth.segmentation import EncodedPhoto, PerSAM, Prompts, reference_from

KEPT = 4
"""Encoded photos that are kept for the next click."""
SURE = 8.0
"""Logit of a pixel inside the mask that a click corrects; outside it is the negative."""
LOGITS_A_CELL = 4
"""Side of the mask prompt in units of the embedding's: of every SAM."""
PIECES = 256
"""Pieces of a difference are told apart on so many pixels a side."""


class Clicker:
    """One SAM, asked by one thread at a time.

    Args:
        load: makes the PerSAM.
    """

    def __init__(self, load: Callable[[], PerSAM]) -> None:
        self._load, self._turn = load, threading.Lock()
        self._persam: PerSAM | None = None
        self._encoded: OrderedDict[str, EncodedPhoto] = OrderedDict()

    def first(self, photo: Path, strokes: Sequence[Stroke]) -> NDArray[np.bool_]:
        """The mask of a subject that is said by points, by one box, or by brush strokes on it.

        Returns:
            (H, W) bool.

        Raises:
            UserError: as `reference_from`.
        """
        image = files.read_photo(photo)
        boxes = [stroke.box for stroke in strokes if stroke.kind == "box"]
        clicks = [stroke for stroke in strokes if stroke.kind == "point"]
        brushes = [covered(stroke, image.size) for stroke in strokes if stroke.kind == "brush"]
        if len(boxes) > 1:
            raise UserError("one box says where the subject is; clear the drawing and draw it again")
        if not boxes and not brushes and not any(stroke.label for stroke in clicks):
            raise UserError("nothing says where the subject is; click on it, draw a box around it, or paint on it")
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
        """A mask after a click that adds what it lies on, or takes it away.

        SAM is shown the mask and all clicks; of what it would change only the piece is taken that the last click
        lies in, so that a click here undoes no brush stroke there.

        Args:
            photo: the file.
            mask: (H, W) bool, as it is.
            clicks: (x, y, label) in pixels of the upright photo, the new one last.

        Returns:
            (H, W) bool and SAM's predicted IoU.

        Raises:
            UserError: the click lies outside of the photo, or SAM does not follow it.
        """
        height, width = mask.shape
        x, y, label = (int(one) for one in clicks[-1])
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"the click ({x}, {y}) lies outside of the photo of {width} x {height} pixels")
        if mask[y, x] == label:
            where = "in" if label else "outside of"
            raise UserError(f"that place is {where} the mask already; click where the mask is wrong")
        with self._turn:
            persam, encoded = self._sam(), self._encode(photo)
            points = encoded.frame.to_model(torch.tensor([click[:2] for click in clicks], dtype=torch.float64))
            labels = torch.tensor([int(click[2]) for click in clicks])
            shown = [_as_prompt(mask, encoded), None] if mask.any() else [None]
            for before in shown:  # a mask can speak louder than a click; then the clicks are asked alone
                asked = Prompts(points, labels, None, before)
                logits, scores = persam.backbone.decode(encoded.embedding, asked, False, extra=encoded.extra)
                answer = (encoded.frame.to_original(logits[:1])[0] > 0).cpu().numpy()
                if answer[y, x] == label:
                    return mask ^ _piece(answer != mask, (x, y)), float(scores[0])
        raise UserError("SAM does not follow that click; use the brush or the eraser there")

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


def _as_prompt(mask: NDArray[np.bool_], photo: EncodedPhoto) -> Tensor:
    """A mask as the logits of an earlier pass, (h, w) float32 over the model square."""
    side = LOGITS_A_CELL * photo.embedding.shape[-1]
    low = photo.frame.to_grid(torch.from_numpy(mask).float(), side, 0.0, "area")
    return ((2 * low - 1) * SURE).to(photo.embedding.device)


def _piece(difference: NDArray[np.bool_], place: tuple[int, int]) -> NDArray[np.bool_]:
    """Of an (H, W) bool map the connected piece at (x, y), told apart at a few hundred pixels' resolution."""
    picture = Image.fromarray(difference.astype(np.uint8) * 255)
    factor = max(1, max(picture.size) // PIECES)
    small = picture.reduce(factor).point(lambda level: 255 if level else 0)
    at = min(place[0] // factor, small.width - 1), min(place[1] // factor, small.height - 1)
    ImageDraw.floodfill(small, at, 128)
    piece = small.point(lambda level: 255 if level == 128 else 0)
    whole = piece.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)
    return np.asarray(whole.crop((0, 0, *picture.size))).astype(bool) & difference


def _inside(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box cut to the photo."""
    left, top, right, bottom = box
    return max(0.0, left), max(0.0, top), min(float(size[0]), right), min(float(size[1]), bottom)
