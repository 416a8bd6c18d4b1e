"""A person's decisions on a folder of masks: each saved at once, undone to the byte, never over another's."""

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import (
    MANIFEST_NAME,
    ManifestEntry,
    format_line,
    locked,
    manifest_line,
    parse_line,
    put_line,
    relative_path,
)
from persam_dreambooth.preprocessing.subject_folder import SETTINGS_NAME, SubjectFolder
from persam_dreambooth.replacing import replacing

REMEMBERED = 20
"""Decisions on one photo that can be undone."""
Verdict = Literal["approved", "excluded"]


class Conflict(UserError):
    """Somebody else has changed the photo's mask or line since it was looked at; nothing was written."""


@dataclass(frozen=True)
class _Step:
    """What there was before a decision, and what the decision left."""

    line: bytes | None
    contents: Mapping[Path, bytes | None]
    after: str


class Corrections:
    """A person's hand on the masks and the manifest of one subject; undo lasts as long as this object.

    Each decision names the version of the photo that it was made on, and is refused when another has come in
    between. All of them raise `Conflict` then, and `UserError` for a photo or a mask that cannot be.

    Args:
        output: the folder that `segment_folder` writes; it need not exist yet.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.manifest = output / MANIFEST_NAME
        self._folder = SubjectFolder(output)
        self._steps: dict[Path, deque[_Step]] = defaultdict(lambda: deque(maxlen=REMEMBERED))

    def mask_path(self, photo: Path) -> Path:
        """Where a photo's mask lies."""
        return self.output / "masks" / f"{photo.stem}.png"

    def version(self, photo: Path, entry: ManifestEntry | None) -> str:
        """What tells one state of a photo from another: a digest of its entry and its mask."""
        line = b"" if entry is None else format_line(entry)
        return hashlib.sha256(line + _digest(self.mask_path(photo)).encode()).hexdigest()[:16]

    def correct(self, photo: Path, mask: NDArray[np.bool_], seen: str, changes: Mapping[str, Any]) -> None:
        """Replace a photo's mask.

        Args:
            photo: the file.
            mask: (H, W) bool of the upright photo's size.
            seen: the version that the new mask was made from.
            changes: fields of the line that do not follow from the mask, such as `score`.
        """
        image = files.read_photo(photo)
        if mask.shape != (image.height, image.width):
            raise UserError(
                f"a mask of {mask.shape[1]} x {mask.shape[0]} pixels does not fit {photo.name}, which has "
                f"{image.width} x {image.height}; make it on this photo"
            )
        own: dict[str, Any] = {
            "digest": files.digest(photo),
            "source": "corrected",
            "score": None,
            "presence": None,
            "reason": None,
        }
        own |= {"probability": None, "instances": None, "warnings": [], "error": None}
        self._decide(photo, seen, lambda entry: self._folder.draw(image, mask, replace(entry, **{**own, **changes})))

    def judge(self, photo: Path, verdict: Verdict | None, seen: str) -> None:
        """Approve or exclude a photo, or take that back."""
        self._decide(photo, seen, lambda entry: replace(_with_mask(entry), review=verdict))

    def refer(self, photo: Path, is_reference: bool, seen: str) -> None:
        """Find the others by this photo's mask too, or no longer."""
        source, review = ("reference", "approved") if is_reference else ("corrected", None)
        self._decide(photo, seen, lambda entry: replace(_with_mask(entry), source=source, review=review))

    def undo(self, photo: Path, seen: str) -> None:
        """Take the last decision on a photo back; files and line are then what they were, to the byte."""
        with locked(self.manifest):
            self._refuse_conflict(photo, seen)
            if not self._steps[photo]:
                raise UserError(f"there is nothing to undo on {photo.name} since this page was started")
            if self._steps[photo][-1].after != seen:
                raise Conflict(f"{photo.name} was changed by another program since; its undo would overwrite that")
            step = self._steps[photo].pop()
            _restore(step.contents)
            put_line(self.manifest, photo.name, step.line)

    def can_undo(self, photo: Path, version: str) -> bool:
        """Whether the photo is as a remembered decision left it."""
        steps = self._steps.get(photo)
        return bool(steps) and steps is not None and steps[-1].after == version

    def _decide(self, photo: Path, seen: str, change: Callable[[ManifestEntry], ManifestEntry]) -> None:
        with locked(self.manifest):
            line = self._refuse_conflict(photo, seen)
            entry = parse_line(line) if line else ManifestEntry(relative_path(photo, self.output), "")
            with self._all_or_nothing(photo) as contents:
                changed = change(entry)
                if entry.instances and not changed.instances:
                    (self.output / "instances" / f"{photo.stem}.png").unlink(missing_ok=True)
                if not (self.output / SETTINGS_NAME).exists():  # drawn before any run: the next run takes it over
                    files.write_json({}, self.output / SETTINGS_NAME)
                put_line(self.manifest, photo.name, format_line(changed))
            after = self.version(photo, changed)
            self._steps[photo].append(_Step(line, contents, after))

    def _refuse_conflict(self, photo: Path, seen: str) -> bytes | None:
        line = manifest_line(self.manifest, photo.name)
        if self.version(photo, parse_line(line) if line else None) != seen:
            raise Conflict(f"{photo.name} was changed in another tab or by another program; here is the newer one")
        return line

    @contextmanager
    def _all_or_nothing(self, photo: Path) -> Iterator[Mapping[Path, bytes | None]]:
        """Yields what the photo's files hold, and will again if the block, which writes the line last, raises.

        Nor do settings and folders remain then that only this block made: of them alone no start would know whose
        they are.
        """
        folders = {"masks": ".png", "overlays": ".jpg", "instances": ".png"}
        paths = [self.output / folder / f"{photo.stem}{suffix}" for folder, suffix in folders.items()]
        contents = {path: path.read_bytes() if path.is_file() else None for path in paths}
        settings = self.output / SETTINGS_NAME
        absent = [path for path in (settings, *(path.parent for path in paths)) if not path.exists()]
        try:
            yield contents
        except BaseException:
            _restore(contents)
            for path in filter(Path.exists, absent):
                path.rmdir() if path.is_dir() else path.unlink()
            raise


def _restore(contents: Mapping[Path, bytes | None]) -> None:
    for path, content in contents.items():
        if content is None:
            path.unlink(missing_ok=True)
        elif not path.is_file() or path.read_bytes() != content:
            with replacing(path) as temporary:
                temporary.write_bytes(content)


def _with_mask(entry: ManifestEntry) -> ManifestEntry:
    """The entry, if there is something to decide about."""
    if entry.mask is None:
        raise UserError(f"{Path(entry.photo).name} has no mask yet; draw the subject on it, or find it first")
    return entry


def _digest(path: Path) -> str:
    """SHA-256 of a file, read again only when the file is another one."""
    try:
        state = path.stat()
    except OSError:
        return ""
    return _digest_of(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _digest_of(path: Path, *_state: int) -> str:
    return files.digest(path)
