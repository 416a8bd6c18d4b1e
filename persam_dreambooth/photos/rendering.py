"""Pictures for people to look at: mask overlays, and contact sheets of pictures with captions in any script."""

import math
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
BROAD = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.*",
    "NotoSans*CJK*Regular*",
    "NotoSansSC*",
    "SourceHanSans*",
    "DroidSansFallback*",
    "wqy-*",
    "Arial Unicode*",
    "PingFang*",
    "Hiragino*",
    "AppleSDGothicNeo*",
    "msyh.*",
    "msgothic.*",
    "malgun.*",
    "seguisym.*",
    "Symbola*",
    "unifont*",
)
"""Names of fonts that go beyond Latin, on Linux, macOS and Windows."""
UNUSED = "\U0010fffe"
"""An unassigned code point: fonts draw it as they draw every letter that they lack."""


def caption_and_font(text: str, size: int, otherwise: str) -> tuple[str, Font]:
    """Return a caption on one line and a font that has all of its letters.

    Args:
        text: any text; white space, line breaks included, becomes single spaces.
        size: of the letters, in pixels.
        otherwise: Latin text to use instead if no font has all letters.
    """
    text = " ".join(text.split())
    letters = "".join(sorted(set(text) - {" "}))
    if not any(unicodedata.category(letter) in ("Cc", "Cs", "Cn", "Co") for letter in letters):
        for font in _fonts(size):
            if covers(font, letters):
                return text, font
    return otherwise, ImageFont.load_default(size)


def covers(font: Font, letters: str) -> bool:
    """Return whether a font has a glyph for every letter, instead of the box that stands for a missing one."""
    box = _drawn(font, UNUSED)
    return all(unicodedata.category(letter) in ("Cf", "Mn") or _drawn(font, letter) != box for letter in letters)


def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


def _fonts(size: int) -> Iterator[Font]:
    yield ImageFont.load_default(size)
    for path in _installed():
        try:
            yield ImageFont.truetype(path, size)
        except OSError:  # damaged, or a bitmap font of one size
            continue


@cache
def _installed() -> tuple[str, ...]:
    """List the installed files of the fonts in `BROAD`, matplotlib's copy of DejaVu first."""
    spec = find_spec("matplotlib")
    folders = [Path(spec.origin).parent / "mpl-data" / "fonts"] if spec and spec.origin else []
    home = Path.home()
    folders += {
        "darwin": [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"],
        "win32": [Path("C:/Windows/Fonts")],
    }.get(sys.platform, [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts"])
    found = (path for folder in folders for name in BROAD for path in sorted(folder.rglob(name)))
    return tuple(str(path) for path in found if path.suffix.lower() in (".ttf", ".otf", ".ttc"))


OUTLINE = (255, 64, 129)
POSITIVE, NEGATIVE = (57, 220, 90), (240, 60, 40)
HEAT = ((40, 40, 150), (30, 140, 170), (90, 200, 110), (250, 230, 60))
"""Colours of a heat map, from the lowest to the highest value."""
HEAT_SHARE = 0.6
"""Share of the heat map's colours; the rest is the photo."""
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
    edge = Image.fromarray(dilated(mask, _stroke(photo)) & ~mask)
    picture.paste(OUTLINE, mask=edge)
    _draw_points(picture, points, point_labels)
    return picture


def latent_cells(levels: NDArray[np.float32], size: tuple[int, int]) -> Image.Image:
    """Draw a latent mask as sharp squares, from black at 0 to white at 1.

    Args:
        levels: (h, w) float in [0, 1].
        size: width and height of the picture, in pixels.

    Returns:
        A grey picture (mode L).
    """
    return Image.fromarray((levels * 255).round().astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def heat_map(
    photo: Image.Image,
    values: NDArray[np.float32],
    points: Sequence[Sequence[int]] = (),
    point_labels: Sequence[int] = (),
) -> Image.Image:
    """Draw values over a gray version of their photo, from their minimum in blue to their maximum in yellow.

    Args:
        photo: RGB.
        values: (H, W) float of the photo's size.
        points: as for `overlay`.
        point_labels: as for `overlay`.
    """
    low, high = float(values.min()), float(values.max())
    levels = ((values - low) * (255 / max(high - low, 1e-12))).round().astype(np.uint8)
    stops = np.linspace(0, 255, len(HEAT))
    colours = np.stack([np.interp(np.arange(256), stops, channel) for channel in zip(*HEAT, strict=True)], axis=-1)
    heat = Image.fromarray(colours.round().astype(np.uint8)[levels])
    picture = Image.blend(photo.convert("L").convert("RGB"), heat, HEAT_SHARE)
    _draw_points(picture, points, point_labels)
    return picture


def _draw_points(picture: Image.Image, points: Sequence[Sequence[int]], point_labels: Sequence[int]) -> None:
    """Draw prompt points, positive ones green and negative ones red."""
    stroke, draw = _stroke(picture), ImageDraw.Draw(picture)
    for (x, y), label in zip(points, point_labels, strict=True):
        colour = POSITIVE if label else NEGATIVE
        draw.circle((x, y), 5 * stroke, fill=colour, outline="white", width=stroke)


def _stroke(picture: Image.Image) -> int:
    """Return the width of a line in a picture, in pixels."""
    return max(1, round(max(picture.size) / 400))


def dilated(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
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
        text, font = caption_and_font(caption, letter, otherwise=f"#{number + 1}")
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
