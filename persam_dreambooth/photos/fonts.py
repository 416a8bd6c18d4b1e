"""Find a font for a caption: Pillow's own for Latin, else an installed one that has every letter."""

import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

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
"""A code point without a letter: fonts draw it as they draw every letter that they lack."""


def writable(text: str, size: int, otherwise: str) -> tuple[str, Font]:
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
