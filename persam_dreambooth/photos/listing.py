"""Find the photos of a folder, and say what in it is passed over."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from persam_dreambooth.errors import UserError, printable
from persam_dreambooth.photos.manifest import MANIFEST_NAME
from persam_dreambooth.words import listed

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif", ".hif"),
)
NO_PHOTOS = ("-masklabel.png", "-condlabel.png")
"""How the names of masks end that OneTrainer, and `export --in_place` for it, keep beside the photos."""
VIDEOS = (".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts")
RAW = (".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".raw")
NOTES = (
    *(".txt", ".caption", ".tags", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".csv", ".md", ".html", ".xml"),
    *(".xmp", ".aae", ".ini", ".db", ".npz", ".npy", ".safetensors", ".lock"),
)
"""What lies beside photos and is none: captions, metadata, the caches of trainers and viewers."""
DEPTH = 3
"""Folders of photos are looked for so many folders deep."""
OUTPUT_NAME = "segmented"
"""Where the review page puts the masks of a folder unless something else is said: a folder of this name in it."""
SEGMENTATION = "segmentation.json"
OURS = (MANIFEST_NAME, SEGMENTATION, "training_config.yaml", "model_index.json")
"""Files by which the folders are known that our verbs write."""


def find_photos(folder: Path, besides: tuple[Path, ...] = ()) -> list[Path]:
    """The photos that lie directly in a folder, sorted by name.

    Args:
        folder: where to look; hidden files, other kinds of files and OneTrainer's masks are passed over.
        besides: files that are no photos of the subject although they look like it (the reference mask).

    Raises:
        UserError: no such folder, no photo in it, or two photos that differ only in their suffix
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
            f"no photo found in {folder}{f' ({words})' if words else ''}; put files there that end in "
            f"{', '.join(PHOTO_SUFFIXES)}"
        )
    refuse_clashing_stems(photos)
    return photos


def refuse_clashing_stems(paths: Sequence[Path]) -> None:
    """Raise a UserError when two files of a folder differ only in their suffix."""
    by_stem = defaultdict(list)
    for path in paths:
        by_stem[path.stem].append(path.name)
    clashes = [" and ".join(names) for names in by_stem.values() if len(names) > 1]
    if clashes:
        raise UserError(
            f"files in {paths[0].parent} have the same name but for the suffix: {'; '.join(clashes)}; "
            "rename one of each pair, since a mask has its photo's name"
        )


def list_photos(folder: Path) -> list[Path]:
    """The image files that lie directly in a folder, sorted by name, hidden ones left out."""
    return sorted(
        path for path in folder.iterdir() if is_photo(path) and not path.name.startswith(".") and path.is_file()
    )


def folders_below(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """A folder and those in it, sorted, without hidden ones, links, and what a segmentation wrote.

    Args:
        folder: where to begin.
        depth: how many folders deep to look.
    """
    if (folder / SEGMENTATION).exists():
        return
    yield folder
    for path in sorted(folder.iterdir()) if depth else ():
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".") and path.name != OUTPUT_NAME:
            yield from folders_below(path, depth - 1)


def is_photo(path: Path) -> bool:
    """Whether a file's name ends as a photo's that is read here."""
    return path.suffix.lower() in PHOTO_SUFFIXES


def where(path: Path) -> str:
    """The place that a path leads to; unlike `resolve` this bears links that lead in a circle."""
    return os.path.realpath(path) if "\0" not in str(path) else str(path)


def unread_files(folder: Path, besides: Iterable[Path] = ()) -> dict[Path, str]:
    """What a folder holds that `find_photos` passes over without being told to, sorted by name, each with the reason.

    Captions and other notes beside photos, hidden files, OneTrainer's masks and folders without photos are no such
    thing.

    Args:
        folder: of photos.
        besides: files and folders that are known for something else: masks, the output.
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
    """`unread_files` in one line for the screen; empty where everything is read."""
    by_reason = defaultdict(list)
    for path, reason in unread.items():
        by_reason[reason].append(path.name + "/" * path.is_dir())
    lists = []
    for reason, names in by_reason.items():
        lists.append(f"{listed(names)} ({reason})")
    return printable(f"not read: {'; '.join(lists)}") if lists else ""


def _unread_file(path: Path) -> str | None:
    """Why a file that is no folder is not read; None for photos and for what nobody takes for one."""
    suffix = path.suffix.lower()
    if not path.is_file():
        return "a link that leads nowhere" if path.is_symlink() else "no regular file"
    if is_photo(path) or suffix in NOTES:
        return None
    if suffix in VIDEOS:
        return "a video: see `persam-dreambooth video`"
    if suffix in RAW:
        return "a camera's raw file: export it as JPEG"
    return "a file of a kind that is not read"


def _unread_folder(folder: Path) -> str | None:
    """Why a folder is not read; None where it holds no photo, or what a verb of ours wrote."""
    if any((folder / name).exists() for name in OURS):
        return None
    try:
        count = sum(1 for photo in list_photos(folder) if not photo.name.endswith(NO_PHOTOS))
        count += sum(len(list_photos(deeper)) for deeper in folder.iterdir() if deeper.is_dir())
    except OSError as error:
        return f"a folder that cannot be opened: {error.strerror}"
    return f"a subfolder with {count} photo{'s' * (count != 1)}" if count else None
