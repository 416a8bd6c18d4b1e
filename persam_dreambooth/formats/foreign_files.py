"""Find files that do not belong in a folder of photos or masks, and describe each in a few words."""

from collections.abc import Iterable
from pathlib import Path

from persam_dreambooth.formats.samples import CAPTION

UNREAD_SUFFIXES = (".jxl", ".jp2")
"""Suffixes of image formats that are not supported here."""


def clashes(photos: Iterable[Path]) -> list[str]:
    """Describe photos whose masks would have the same name."""
    problems, known = [], dict[str, Path]()
    for photo in photos:
        if known.get(photo.stem) == photo:
            problems.append(f"{photo.name} is listed twice")
        elif photo.stem in known:
            problems.append(f"{known[photo.stem].name} and {photo.name} have the same name except for the suffix")
        known.setdefault(photo.stem, photo)
    return problems


def foreign(folder: Path, photos: Iterable[Path] | None = None) -> list[str]:
    """Describe images in unsupported formats and, if photos are given, captions without a photo; nothing else."""
    names = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    problems = [f"{path.name} is a picture in an unsupported format" for path in names if _is_unread(path)]
    if photos is None:
        return problems
    stems = {photo.stem for photo in photos}
    lost = [path for path in names if path.suffix.lower() == CAPTION and path.stem not in stems]
    return problems + [f"{path.name} is the caption of no photo" for path in lost]


def _is_unread(path: Path) -> bool:
    return path.suffix.lower() in UNREAD_SUFFIXES
