"""Find the photos in a folder, also in kohya's layout, and report the files that are skipped."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from persam_dreambooth.errors import UserError, listed, printable
from persam_dreambooth.photos.manifest import MANIFEST_NAME

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif", ".hif"),
)
NO_PHOTOS = ("-masklabel.png", "-condlabel.png")
"""Name endings of OneTrainer's masks, which it, and `export --in_place`, puts beside the photos."""
VIDEOS = (".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts")
RAW = (".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".raw")
NOTES = (
    *(".txt", ".caption", ".tags", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".csv", ".md", ".html", ".xml"),
    *(".xmp", ".aae", ".ini", ".db", ".npz", ".npy", ".safetensors", ".lock"),
)
"""Suffixes of other files found beside photos: captions, metadata, caches of trainers and viewers."""
DEPTH = 3
"""Levels of subfolders in which folders of photos are looked for."""
OUTPUT_NAME = "segmented"
"""Default name of the subfolder in which the review page puts a folder's masks."""
SEGMENTATION = "segmentation.json"
OURS = (MANIFEST_NAME, SEGMENTATION, "training_config.yaml", "model_index.json")
"""Files that mark a folder as written by one of our commands."""


def find_photos(folder: Path, besides: tuple[Path, ...] = ()) -> list[Path]:
    """List the photos directly in a folder, sorted by name.

    Args:
        folder: where to look; hidden files, other kinds of files and OneTrainer's masks are skipped.
        besides: image files that are not photos of the subject (the reference mask).

    Raises:
        UserError: no such folder, no photo in it, or two photos whose names differ only in the suffix
            (their masks would have the same name).
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds the photos")
    passed_over = set(map(where, besides))
    photos = [
        path for path in list_photos(folder) if where(path) not in passed_over and not path.name.endswith(NO_PHOTOS)
    ]
    if not photos:
        words = unread_words(unread_files(folder, besides))
        raise UserError(
            f"no photo found in {folder}{f' ({words})' if words else ''}; put files there whose names end in "
            f"{', '.join(PHOTO_SUFFIXES)}"
        )
    refuse_clashing_stems(photos)
    return photos


def refuse_clashing_stems(paths: Sequence[Path]) -> None:
    """Raise a UserError if the names of two files in a folder differ only in the suffix."""
    by_stem = defaultdict(list)
    for path in paths:
        by_stem[path.stem].append(path.name)
    clashes = [" and ".join(names) for names in by_stem.values() if len(names) > 1]
    if clashes:
        raise UserError(
            f"files in {paths[0].parent} have the same name except for the suffix: {'; '.join(clashes)}; "
            "rename one of each pair, since a mask has its photo's name"
        )


def list_photos(folder: Path) -> list[Path]:
    """List the image files directly in a folder, without hidden ones, sorted by name."""
    return sorted(
        path for path in folder.iterdir() if is_photo(path) and not path.name.startswith(".") and path.is_file()
    )


def folders_below(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield a folder and its subfolders, sorted, without hidden ones, links, and the output of `segment`.

    Args:
        folder: the root.
        depth: how many levels deep to look.
    """
    if (folder / SEGMENTATION).exists():
        return
    yield folder
    for path in sorted(folder.iterdir()) if depth else ():
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".") and path.name != OUTPUT_NAME:
            yield from folders_below(path, depth - 1)


def is_photo(path: Path) -> bool:
    """Return whether a file has the suffix of a photo format that is read here."""
    return path.suffix.lower() in PHOTO_SUFFIXES


def where(path: Path) -> str:
    """Return the path with links resolved; unlike `resolve`, this accepts circular links."""
    return os.path.realpath(path) if "\0" not in str(path) else str(path)


def unread_files(folder: Path, besides: Iterable[Path] = ()) -> dict[Path, str]:
    """List the files and folders that `find_photos` skips of its own accord, sorted by name, each with the reason.

    Captions and other notes beside photos, hidden files, OneTrainer's masks and folders without photos are not
    listed.

    Args:
        folder: the photos.
        besides: files and folders with another known purpose: masks, the output.
    """
    passed_over = set(map(where, besides))
    reasons = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or where(path) in passed_over:
            continue
        reason = _unread_folder(path) if path.is_dir() else _unread_file(path)
        if reason:
            reasons[path] = reason
    return reasons


def unread_words(unread: Mapping[Path, str]) -> str:
    """Format the result of `unread_files` as one line for the screen; empty if everything is read."""
    by_reason = defaultdict(list)
    for path, reason in unread.items():
        by_reason[reason].append(path.name + "/" * path.is_dir())
    lists = []
    for reason, names in by_reason.items():
        lists.append(f"{listed(names)} ({reason})")
    return printable(f"not read: {'; '.join(lists)}") if lists else ""


def _unread_file(path: Path) -> str | None:
    """Return why a file is not read; None for photos, and for files that nobody expects to be read as one."""
    suffix = path.suffix.lower()
    if not path.is_file():
        return "a broken link" if path.is_symlink() else "not a regular file"
    if is_photo(path) or suffix in NOTES:
        return None
    if suffix in VIDEOS:
        return "a video: see `persam-dreambooth video`"
    if suffix in RAW:
        return "a camera's raw file: export it as JPEG"
    return "an unsupported file type"


def _unread_folder(folder: Path) -> str | None:
    """Return why a folder is not read; None if it holds no photo, or the output of one of our commands."""
    if any((folder / name).exists() for name in OURS):
        return None
    try:
        count = sum(1 for photo in list_photos(folder) if not photo.name.endswith(NO_PHOTOS))
        count += sum(len(list_photos(deeper)) for deeper in folder.iterdir() if deeper.is_dir())
    except OSError as error:
        return f"a folder that cannot be opened: {error.strerror}"
    return f"a subfolder with {count} photo{'s' * (count != 1)}" if count else None


_REPEATED = re.compile(r"([1-9][0-9]{0,5})_(.*\S.*)")


@dataclass(frozen=True)
class PhotoFolder:
    """A folder of photos that are all repeated equally often.

    Attributes:
        path: the folder.
        repeats: how often an epoch shows each photo.
        words: the prompt in its name; empty if it is not one of kohya's folders.
    """

    path: Path
    repeats: int = 1
    words: str = ""

    @property
    def name(self) -> str:
        """Its name inside the given folder; empty if it is that folder itself."""
        return self.path.name if self.words else ""


def repeated_folders(folder: Path) -> list[PhotoFolder]:
    """List the subfolders with names in kohya's form, sorted by name; none if the folder does not exist."""
    if not folder.is_dir():
        return []
    matches = [(path, _REPEATED.fullmatch(path.name)) for path in sorted(folder.iterdir()) if path.is_dir()]
    return [PhotoFolder(path, int(found[1]), found[2].strip()) for path, found in matches if found]
