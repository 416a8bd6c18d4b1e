"""What does not belong in a folder of photos or masks, a few words each."""

from collections.abc import Iterable
from pathlib import Path

from persam_dreambooth.formats.samples import CAPTION

UNREAD_SUFFIXES = (".jxl", ".jp2")
"""Pictures that are not read here."""


def clashes(photos: Iterable[Path]) -> list[str]:
    """Photos whose masks would have the same name."""
    problems, known = [], dict[str, Path]()
    for photo in photos:
        if known.get(photo.stem) == photo:
            problems.append(f"{photo.name} is listed twice")
        elif photo.stem in known:
            problems.append(f"{known[photo.stem].name} and {photo.name} have the same name but for the suffix")
        known.setdefault(photo.stem, photo)
    return problems


def foreign(folder: Path, photos: Iterable[Path] | None = None) -> list[str]:
    """Pictures of other formats, and, where photos are given, captions of none of them; other files may lie there."""
    names = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    problems = [f"{path.name} is a picture that is not read here" for path in names if _is_unread(path)]
    if photos is None:
        return problems
    stems = {photo.stem for photo in photos}
    lost = [path for path in names if path.suffix.lower() == CAPTION and path.stem not in stems]
    return problems + [f"{path.name} is the caption of no photo" for path in lost]


def _is_unread(path: Path) -> bool:
    return path.suffix.lower() in UNREAD_SUFFIXES
