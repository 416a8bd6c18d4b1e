"""Pictures for people to look at: mask overlays, and contact sheets of pictures with captions."""

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from persam_dreambooth.photos import fonts

OUTLINE = (255, 64, 129)
POSITIVE, NEGATIVE = (57, 220, 90), (240, 60, 40)
PAPER, INK = (250, 250, 248), (40, 40, 40)
TILE = 256  # side of a sheet's tile in pixels
BACKGROUND_LIGHT = 0.35  # share of the photo's brightness that is left outside the mask


def overlay(
    photo: Image.Image,
    mask: NDArray[np.bool_],
    points: Sequence[Sequence[int]] = (),
    point_labels: Sequence[int] = (),
) -> Image.Image:
    """Draw a mask over its photo: background dimmed, the mask's outline, and the prompt points.

    Args:
        photo: RGB.
        mask: (H, W) bool of the photo's size.
        points: (x, y) in the photo's pixels.
        point_labels: 1 draws green, 0 red.
    """
    inside = Image.fromarray(mask.astype(np.uint8) * 255)
    dimmed = photo.point(lambda level: round(level * BACKGROUND_LIGHT))
    picture = Image.composite(photo, dimmed, inside)
    stroke = max(1, round(max(photo.size) / 400))
    edge = Image.fromarray(grown(mask, stroke) & ~mask)
    picture.paste(OUTLINE, mask=edge)
    draw = ImageDraw.Draw(picture)
    for (x, y), label in zip(points, point_labels, strict=True):
        colour = POSITIVE if label else NEGATIVE
        draw.circle((x, y), 5 * stroke, fill=colour, outline="white", width=stroke)
    return picture


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Dilate a mask, (H, W) bool, by 0 to 250 pixels in each direction, with a square kernel.

    The result is every pixel at which a box blur of rows, then of columns, is not 0. `MaxFilter` would give the same,
    but takes ten seconds for a photo of 12 million pixels.
    """
    for radius in ((pixels, 0), (0, pixels)):
        mask = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(radius))) > 0
    return mask


def sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], columns: int | None = None, tile: int = TILE
) -> Image.Image:
    """Lay out pictures in rows, each fitted into a square tile with its caption below.

    Args:
        pictures: at least one, of any sizes.
        captions: one per picture; long ones end in an ellipsis, and one that no installed font can write is
            replaced by its picture's number, "#12".
        columns: pictures per row; None takes four, or up to six if there are many.
        tile: side of a tile in pixels.
    """
    columns = columns or min(6, max(math.isqrt(len(pictures)), min(4, len(pictures))))
    rows = -(-len(pictures) // columns)
    margin, letter = max(4, tile // 24), max(9, tile // 18)
    line = round(letter * 1.6)
    page = Image.new("RGB", (columns * (tile + margin) + margin, rows * (tile + line + margin) + margin), PAPER)
    draw = ImageDraw.Draw(page)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = margin + number % columns * (tile + margin)
        top = margin + number // columns * (tile + line + margin)
        small = picture.convert("RGB")
        scale = tile / max(small.size)
        size = (max(1, round(small.width * scale)), max(1, round(small.height * scale)))
        small = small.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
        page.paste(small, (left + (tile - small.width) // 2, top + (tile - small.height) // 2))
        text, font = fonts.writable(caption, letter, otherwise=f"#{number + 1}")
        draw.text((left, top + tile + 2), _fit(text, font, tile), fill=INK, font=font)
    return page


def joined(pictures: Sequence[Image.Image], across: bool = False) -> Image.Image:
    """Stack pictures vertically, or side by side with `across`, at their own sizes."""
    widths, heights = zip(*(picture.size for picture in pictures), strict=True)
    size = (sum(widths), max(heights)) if across else (max(widths), sum(heights))
    page, left, top = Image.new("RGB", size, PAPER), 0, 0
    for picture in pictures:
        page.paste(picture, (left, top))
        left, top = (left + picture.width, 0) if across else (0, top + picture.height)
    return page


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten a caption to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    lengths = range(len(text))
    fits: int = bisect_right(lengths, float(width), key=lambda length: float(font.getlength(text[:length] + "…")))
    return text[: max(0, fits - 1)] + "…"
