"""COCO masks: polygons and run-length encodings, checked against the photo before they are decoded.

pycocotools itself checks nothing: a distant or infinite coordinate crashes the process, a short run-length encoding
leaks memory contents, and sizes are allocated as the file claims.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from persam_dreambooth.errors import UserError

MARGIN = 1.0
"""Largest distance of a polygon from the photo, in photo widths and heights."""
PACKED_DIGITS = 6
"""Largest index, from 0, of a five-bit character within a number of a packed run-length encoding (32-bit counts)."""


def coco_tools() -> Any:
    """Import the `mask` module of pycocotools.

    Raises:
        UserError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError("COCO masks need pycocotools, which is not installed; `pip install pycocotools`") from error
    return mask


def union_of(segmentations: list[Any], height: int, width: int) -> NDArray[np.bool_]:
    """Return the union of masks as (height, width) bool; arguments and errors as for `read_segmentation`."""
    union = np.zeros((height, width), bool)
    for segmentation in segmentations:
        union |= read_segmentation(segmentation, height, width)
    return union


def read_segmentation(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Decode one mask to (height, width) bool.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...] in pixels, a run-length
            encoding (dictionary of `size` and `counts`, packed or not), or a (height, width) array.
        height, width: of the photo, in pixels.

    Raises:
        UserError: another type, a mask of another size, or one far outside the photo.
    """
    if isinstance(segmentation, np.ndarray):
        _check_size(segmentation.shape, height, width)
        return np.asarray(segmentation > 0)
    if isinstance(segmentation, list):
        return _fill(segmentation, height, width)
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        _check_size(segmentation["size"], height, width)
        return _run(segmentation["counts"], height, width)
    if segmentation is None:
        raise UserError("it has no mask; draw one, or remove the annotation")
    raise UserError(
        f"a mask is polygons, a run-length encoding or an array, not {type(segmentation).__name__}; export it again"
    )


def _check_size(size: Any, height: int, width: int) -> None:
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        given = (
            f"({', '.join(map(str, size))})" if isinstance(size, list | tuple) and len(size) < 5 else "another size"
        )
        raise UserError(
            f"a mask of {given[:40]} does not fit its photo of ({height}, {width}) (height, width); export it again"
        )


def _fill(polygons: list[Any], height: int, width: int) -> NDArray[np.bool_]:
    """Draw the union of polygons."""
    checked = [_checked(polygon, height, width) for polygon in polygons]
    # Data sets also contain lines and points, which cover nothing.
    checked = [points for points in checked if len(points) >= 3]
    if not checked:
        raise UserError("it has no polygon of three points or more; draw one, or remove the annotation")
    tools = coco_tools()
    edges = (np.abs(points - np.roll(points, 1, axis=0)).max(axis=1) for points in checked)
    around, most = sum(float(lengths.sum()) for lengths in edges), height * width // 2 + 16 * (height + width)
    if around > most:  # pycocotools allocates about a hundred bytes for each of these pixels
        raise UserError(
            f"its polygons have a perimeter of {around:.0f} pixels; in a photo of {width} x {height} pixels at most "
            f"{most} are allowed; simplify them"
        )
    drawn = tools.frPyObjects([points.ravel().tolist() for points in checked], height, width)
    return np.asarray(tools.decode(tools.merge(drawn)) > 0)


def _checked(polygon: Any, height: int, width: int) -> NDArray[np.float64]:
    """Return a polygon's points as an (N, 2) array of (x, y) in pixels, all of them near the photo."""
    try:
        values = np.asarray(polygon, dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError("a polygon is a list of numbers x0, y0, x1, y1, ...; export it again") from error
    if len(values) % 2:
        raise UserError(f"a polygon has {len(values)} numbers, not two per point; export it again")
    points, size = values.reshape(-1, 2), np.array([width, height])
    near = ((points >= -MARGIN * size) & (points <= (1 + MARGIN) * size)).all(axis=1)  # both are false for NaN
    if not near.all():
        x, y = points[int(np.argmin(near))]
        raise UserError(
            f"a polygon's point ({x:g}, {y:g}) lies far outside its photo of {width} x {height} pixels; correct it"
        )
    return points


def _run(counts: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Decode run lengths, background first, column by column."""
    lengths = _unpack(counts) if isinstance(counts, str | bytes) else _whole_numbers(counts)
    if (lengths < 0).any() or (total := int(lengths.sum())) != height * width:
        what = "negative lengths" if (lengths < 0).any() else f"{total} pixels"
        raise UserError(
            f"its runs have {what}, its photo has {height * width} pixels ({width} x {height}); export it again"
        )
    subject = np.arange(len(lengths)) % 2 == 1
    return np.repeat(subject, lengths).reshape(width, height).T


def _whole_numbers(counts: Any) -> NDArray[np.int64]:
    if not isinstance(counts, list) or not all(type(count) is int and abs(count) < 2**32 for count in counts):
        raise UserError(
            "a run-length encoding's counts are a list of whole numbers of pixels, or a packed string; export it again"
        )
    return np.array(counts, np.int64)


def _unpack(text: str | bytes) -> NDArray[np.int64]:
    """Decode a packed string of run lengths, as pycocotools' `rleFrString` does.

    Numbers are LEB128 in six-bit characters from "0" on; from the third on, each is stored as the difference from the
    number two places before. `rleFrString` itself reads past the end of a truncated string.
    """
    codes = np.frombuffer(text.encode("utf-8", "replace") if isinstance(text, str) else text, np.uint8).astype(
        np.int64
    )
    codes = codes - ord("0")
    last = codes & 0x20 == 0
    ends = np.flatnonzero(last)
    starts = np.array([0, *(ends[:-1] + 1)], np.int64)[: len(ends)]
    digits = np.arange(len(codes)) - np.repeat(starts, ends + 1 - starts) if len(codes) and last[-1] else None
    if digits is None or codes.min() < 0 or codes.max() > 0x3F or digits.max() > PACKED_DIGITS:
        raise UserError("a packed run-length encoding is damaged or truncated; export it again")
    values = np.add.reduceat((codes & 0x1F) << (5 * digits), starts)
    negative = codes[ends] & 0x10 != 0
    values = values - np.where(negative, np.int64(1) << (5 * (ends + 1 - starts)), 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values
