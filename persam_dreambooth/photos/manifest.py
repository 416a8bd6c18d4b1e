"""The manifest: one JSON line per photo, with what was found in it and where its mask is."""

import math
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

from filelock import FileLock

from persam_dreambooth import json_lines
from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.image_files import check_regular
from persam_dreambooth.json_lines import append_line as append_line
from persam_dreambooth.json_lines import take_back_line as take_back_line
from persam_dreambooth.text_files import can_name_a_file

MANIFEST_NAME = "manifest.jsonl"
LOCK_NAME = ".manifest.lock"
"""Lock held by whoever writes the manifest; an empty file that stays there."""
OWN_FILES: Final = {"mask": "masks/{}.png", "overlay": "overlays/{}.jpg", "instances": "instances/{}.png"}
"""The only files that a photo's line may name, by the stem of the photo's file name."""


@dataclass(frozen=True)
class ManifestEntry:
    """Everything known about one photo.

    Attributes:
        photo: path of the photo, relative to the manifest's folder, with forward slashes.
        digest: SHA-256 of the photo's bytes.
        width, height: of the upright photo, in pixels; None when it could not be decoded.
        mask, overlay: paths relative to the manifest's folder, or None.
        mask_digest: SHA-256 of the mask file's bytes when this entry was written.
        source: where the mask comes from: the name of the method that found it, such as "persam" (in older manifests
            "persam" for every method, and for photos without a mask); "reference" for the user's mask of a reference
            photo; "corrected" if a person corrected it on the review page; "given" if it was made elsewhere or changed
            since; None without a mask.
        score: predicted IoU, which may be slightly above 1 (shown as 1); None for the user's own mask.
        presence: "found", "unsure" or "not found": whether the mask is of the subject; None if undecided.
        probability: that the mask is of the subject, in [0, 1].
        reason: why presence is not "found"; one sentence.
        instances: path of a palette PNG that numbers the subject's instances; None unless all were requested.
        points: (x, y) in pixels of the upright photo, the positive one first.
        point_labels: 1 for positive, 0 for negative, one per point.
        box: XYXY in pixels of the upright photo; None for an empty mask.
        warnings: one sentence each.
        error: why the photo could not be used; None if it was.
        review: what a person decided: "approved", "excluded" (training leaves the photo out), or None.
    """

    photo: str
    digest: str
    width: int | None = None
    height: int | None = None
    mask: str | None = None
    mask_digest: str | None = None
    overlay: str | None = None
    source: str | None = None
    score: float | None = None
    presence: str | None = None
    probability: float | None = None
    reason: str | None = None
    instances: str | None = None
    points: list[list[int]] = field(default_factory=list)
    point_labels: list[int] = field(default_factory=list)
    box: list[int] | None = None
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    review: str | None = None

    @property
    def uncertain(self) -> bool:
        """Whether the presence rule decided anything but "found"; a person's approval overrides it."""
        return self.presence not in (None, "found") and self.review != "approved"

    @property
    def excluded(self) -> bool:
        """Whether a person excluded the photo."""
        return self.review == "excluded"

    @property
    def reviewed(self) -> bool:
        """Whether a person made or judged this mask, so that no run may overwrite it."""
        return self.review is not None or not self.was_found

    @property
    def was_found(self) -> bool:
        """Whether no person made a mask of this photo: a method found it, or there is none."""
        return self.source not in ("reference", "corrected", "given")


def read_manifest(path: Path, own_files: bool = True) -> list[ManifestEntry]:
    """Read all entries, in the file's order; see `stream_manifest`."""
    return list(stream_manifest(path, own_files=own_files))


def newest_entries(path: Path) -> list[ManifestEntry]:
    """Read each photo's newest entry: its last line, as the review page appends. Errors: see `stream_manifest`."""
    return list({_stem(entry.photo): entry for entry in stream_manifest(path)}.values())


def stream_manifest(path: Path, own_files: bool = True) -> Iterator[ManifestEntry]:
    """Yield the entries one by one, in the file's order; see `stream_lines`."""
    return (entry for _, entry in stream_lines(path, own_files=own_files))


def stream_lines(path: Path, start: int = 0, own_files: bool = True) -> Iterator[tuple[bytes, ManifestEntry]]:
    """Yield each line as stored, with its entry, in the file's order; none if there is no file.

    If a photo has several lines, the last one counts. A truncated last line (its writer was killed) is skipped.

    Args:
        path: the file.
        start: the byte offset of the first line.
        own_files: refuse lines that name files other than their photo's own in this folder. Turn it off only to read
            the manifest that training writes, whose masks are elsewhere; never write or remove files by that one.

    Raises:
        UserError: it is not a regular file, a line before the last is damaged, or a line has unknown keys, invalid
            values, or names files other than its photo's own here.
    """
    if not path.exists():
        return
    check_regular(path, "manifest")
    linked = {key for key, form in OWN_FILES.items() if (path.parent / form).parent.is_symlink()}
    for number, line, values in json_lines.read_lines(path, start):
        reason = _refusal(values) or (_straying(values, path.parent, linked) if own_files else None)
        if reason:
            raise UserError(
                f"line {number} of {path} is not a manifest entry ({reason}); "
                "delete that line, or choose another folder"
            )
        yield line, ManifestEntry(**values)


def _refusal(values: Any) -> str | None:
    """Return why the values of a line do not form an entry; None if they do."""
    if not isinstance(values, dict) or not {"photo", "digest"} <= set(values):
        return "it has no photo and digest"
    for key, value in values.items():
        if key not in _KINDS or not _fits(value, _KINDS[key]):
            return f"{key[:40]!r} is not known or has a value of another type"
    return None


def _straying(values: Any, folder: Path, linked: Collection[str]) -> str | None:
    """Describe a file named in a line that does not belong to its photo in this folder; None if there is none.

    This matters because files named in a line are read, overwritten and removed.

    Args:
        values: of the line.
        folder: the manifest's.
        linked: keys whose files lie in a linked folder.
    """
    stem = Path(values["photo"]).stem
    for key, form in OWN_FILES.items():
        name = values.get(key)
        if name is None:
            continue
        if name != form.format(stem):
            return f"its {key} is not {form.format(stem)}"
        if key in linked or (folder / name).is_symlink():
            return f"its {key} lies behind a link"
    return None


def _fits(value: object, kind: Any) -> bool:
    """Return whether a JSON value has a field's type, and a size that all readers can handle."""
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(part, get_args(kind)[0]) for part in value)
    if get_args(kind):
        return any(_fits(value, part) for part in get_args(kind))
    if kind is str:
        return isinstance(value, str) and can_name_a_file(value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    if kind is int:
        return type(value) is int and abs(value) < 2**31
    return isinstance(value, kind)


_KINDS: Final = get_type_hints(ManifestEntry)


class ManifestIndex:
    """Snapshot of the newest entry of each photo, looked up by the photo's stem; later writes do not change it.

    It keeps the lines as stored: parsed entries take twice the memory.

    Args:
        paths: a manifest, then its journals, whose lines are newer; but entries that a person reviewed in the
            manifest are kept.

    Raises:
        UserError: see `stream_lines`.
    """

    def __init__(self, *paths: Path) -> None:
        self._lines: dict[bytes, bytes] = {}
        for path in paths[:1]:
            self._lines = {_stem(entry.photo): line for line, entry in stream_lines(path)}
        reviewed = {_stem(entry.photo) for entry in self if entry.reviewed} if paths[1:] else set()
        for path in paths[1:]:
            newer = ((_stem(entry.photo), line) for line, entry in stream_lines(path))
            self._lines |= ((stem, line) for stem, line in newer if stem not in reviewed)

    def get(self, photo: str) -> ManifestEntry | None:
        """Return the entry of a photo, by its path or name, or of another photo with the same mask name."""
        line = self._lines.get(_stem(photo))
        return None if line is None else parse_line(line)

    def __iter__(self) -> Iterator[ManifestEntry]:
        return (parse_line(self._lines[stem]) for stem in sorted(self._lines))


def append_entry(path: Path, entry: ManifestEntry) -> None:
    """Append one line, so that a killed run loses at most its current photo. To be called in a `locked` block."""
    append_line(path, format_line(entry))


def locked(path: Path) -> AbstractContextManager[object]:
    """Lock a manifest for the block; other writers wait.

    Args:
        path: the manifest; its folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.parent / LOCK_NAME)


def manifest_line(path: Path, photo: str) -> bytes | None:
    """Return a photo's newest line as stored, with its line break; None if it has none."""
    lines = [line for line in _lines(path) if _stem_of(line) == _stem(photo)]
    return lines[-1] if lines else None


def put_line(path: Path, photo: str, line: bytes | None) -> None:
    """Replace a photo's lines by one line, or remove them; all other lines stay, byte for byte.

    To be called in a `locked` block.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        waiting = line
        for old in _lines(path):
            if _stem_of(old) != _stem(photo):
                file.write(old)
            elif waiting is not None:
                file.write(waiting)
                waiting = None
        file.write(waiting or b"")


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the complete lines of a manifest; a truncated last one is skipped."""
    if path.exists():
        check_regular(path, "manifest")
    for _, line in json_lines.numbered_lines(path):
        if line.endswith(b"\n"):
            yield line
        elif json_lines.is_whole_line(line):  # complete except for the line break, which an editor may leave out
            yield line + b"\n"


def _stem_of(line: bytes) -> bytes | None:
    try:
        return _stem(json_lines.decode(line)["photo"])
    except (KeyError, TypeError, ValueError):
        return None


def write_manifest(path: Path, entries: Iterable[ManifestEntry]) -> None:
    """Replace the whole file atomically."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(format_line(entry) for entry in entries)


def relative_path(path: Path, folder: Path) -> str:
    """Return a file's path relative to a manifest in `folder`; links to folders are resolved, links to files not."""
    return Path(os.path.relpath(path.parent.resolve() / path.name, folder.resolve())).as_posix()


def _stem(photo: str) -> bytes:
    return os.fsencode(Path(photo).stem)


def format_line(entry: ManifestEntry) -> bytes:
    """Serialize an entry to one line; a file name that is not UTF-8 keeps its bytes."""
    return json_lines.encode(vars(entry))


def parse_line(line: bytes) -> ManifestEntry:
    """Parse a line of a manifest that was read before, or written by `format_line`."""
    return ManifestEntry(**json_lines.decode(line))
