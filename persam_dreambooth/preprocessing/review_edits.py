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
from persam_dreambooth.photos.live_manifest import LiveManifest
from persam_dreambooth.photos.manifest import (
    MANIFEST_NAME,
    ManifestEntry,
    append_line,
    format_line,
    locked,
    put_line,
    relative_path,
    take_back_line,
)
from persam_dreambooth.preprocessing.mask_store import SETTINGS_NAME, MaskStore
from persam_dreambooth.preprocessing.rollback import JOURNAL_NAME, files_of, forget, remember, restore, roll_back

REMEMBERED = 20
"""Decisions on one photo that can be undone."""
Verdict = Literal["approved", "excluded"]


class Conflict(UserError):
    """Somebody else has changed the photo's mask or line since it was looked at; nothing was written."""


@dataclass(frozen=True)
class _Step:
    """What there was before a decision, and what the decision left: a version, and a line at a byte."""

    line: bytes | None
    contents: Mapping[Path, bytes | None]
    after: str
    start: int
    added: bytes


class ReviewEdits:
    """A person's hand on the masks and the manifest of one subject; undo lasts as long as this object.

    Each decision names the version of the photo that it was made on, and is refused when another has come in
    between. All of them raise `Conflict` then, and `UserError` for a photo or a mask that cannot be.

    Args:
        output: the folder that `segment_folder` writes; it need not exist yet.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.manifest = output / MANIFEST_NAME
        self.live = LiveManifest(self.manifest)
        self._store = MaskStore(output)
        self._versions: dict[Path, tuple[ManifestEntry | None, str, str]] = {}
        self._photos: dict[Path, tuple[tuple[int, int, int], str]] = {}
        self._steps: dict[Path, deque[_Step]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        if (output / JOURNAL_NAME).exists():  # of a page that was stopped
            with self._locked():
                pass

    def mask_path(self, photo: Path) -> Path:
        """Where a photo's mask lies."""
        return self.output / "masks" / f"{photo.stem}.png"

    def version(self, photo: Path, entry: ManifestEntry | None) -> str:
        """What tells one state of a photo from another: a digest of its entry and its mask."""
        digest, known = _digest(self.mask_path(photo)), self._versions.get(photo)
        if known is None or known[0] is not entry or known[1] != digest:
            line = b"" if entry is None else format_line(entry)
            known = entry, digest, hashlib.sha256(line + digest.encode()).hexdigest()[:16]
            self._versions[photo] = known
        return known[2]

    def is_changed(self, photo: Path, entry: ManifestEntry | None, reads: bool = True) -> bool | None:
        """Whether a photo is another one than its mask was made on; None for one yet to be read, without `reads`."""
        if entry is None or entry.mask is None or not entry.digest:
            return False
        try:
            state = photo.stat()
        except OSError:
            return False
        key = state.st_ino, state.st_size, state.st_mtime_ns
        known = self._photos.get(photo)
        if known is None or known[0] != key:
            if not reads:
                return None
            known = self._photos[photo] = key, files.digest(photo)
        return known[1] not in ("", entry.digest)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No other writer, and nothing of a decision that was stopped halfway."""
        with locked(self.manifest):
            roll_back(self.output)
            yield

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
        self._decide(photo, seen, lambda entry: self._store.draw(image, mask, replace(entry, **{**own, **changes})))

    def judge(self, photo: Path, verdict: Verdict | None, seen: str) -> None:
        """Approve or exclude a photo, or take that back."""
        check = _with_mask if verdict == "excluded" else self._with_its_mask
        self._decide(photo, seen, lambda entry: replace(check(photo, entry), review=verdict))

    def refer(self, photo: Path, is_reference: bool, seen: str) -> None:
        """Find the others by this photo's mask too, or no longer."""
        source, review = ("reference", "approved") if is_reference else ("corrected", None)
        self._decide(
            photo, seen, lambda entry: replace(self._with_its_mask(photo, entry), source=source, review=review)
        )

    def undo(self, photo: Path, seen: str) -> None:
        """Take the last decision on a photo back; files and line are then what they were, to the byte."""
        with self._locked():
            self._refuse_conflict(photo, seen)
            if not self._steps[photo]:
                raise UserError(f"there is nothing to undo on {photo.name} since this page was started")
            if self._steps[photo][-1].after != seen:
                raise Conflict(f"{photo.name} was changed by another program since; its undo would overwrite that")
            step = self._steps[photo][-1]
            with self._all_or_nothing(photo):
                restore(step.contents)
                if take_back_line(self.manifest, step.start, step.added):
                    pass  # nothing was decided since: to the byte
                elif step.line is None:
                    put_line(self.manifest, photo.name, None)
                else:
                    append_line(self.manifest, step.line)
            self._steps[photo].pop()

    def can_undo(self, photo: Path, version: str) -> bool:
        """Whether the photo is as a remembered decision left it."""
        steps = self._steps.get(photo)
        return bool(steps) and steps is not None and steps[-1].after == version

    def _decide(self, photo: Path, seen: str, change: Callable[[ManifestEntry], ManifestEntry]) -> None:
        with self._locked():
            before = self._refuse_conflict(photo, seen)
            entry = before or ManifestEntry(relative_path(photo, self.output), "")
            with self._all_or_nothing(photo) as contents:
                changed = change(entry)
                if entry.instances and not changed.instances:
                    (self.output / "instances" / f"{photo.stem}.png").unlink(missing_ok=True)
                added = format_line(changed)
                start = append_line(self.manifest, added)
            line = None if before is None else format_line(before)
            after = self.version(photo, self.live.get(photo.name))
            self._steps[photo].append(_Step(line, contents, after, start, added))

    def _refuse_conflict(self, photo: Path, seen: str) -> ManifestEntry | None:
        entry = self.live.get(photo.name)
        if self.version(photo, entry) != seen:
            raise Conflict(f"{photo.name} was changed in another tab or by another program; here is the newer one")
        return entry

    def _with_its_mask(self, photo: Path, entry: ManifestEntry) -> ManifestEntry:
        if self.is_changed(photo, entry):
            raise UserError(f"{photo.name} is not the photo its mask was made on; segment it again, or draw it again")
        return _with_mask(photo, entry)

    @contextmanager
    def _all_or_nothing(self, photo: Path) -> Iterator[Mapping[Path, bytes | None]]:
        """Yields what the photo's files hold, and will again if the block, which writes the line last, is stopped.

        The settings come first: without them no start would know whose the folder is.
        """
        paths, settings = files_of(self.output, photo.stem), self.output / SETTINGS_NAME
        contents = {path: path.read_bytes() if path.is_file() else None for path in paths}
        absent = [path for path in (settings, *(path.parent for path in paths)) if not path.exists()]
        try:
            if not settings.exists():  # drawn before any run: the next run takes it over
                files.write_json({}, settings)
            line = self.live.get(photo.name)
            remember(self.output, photo.stem, None if line is None else format_line(line), contents)
            yield contents
            forget(self.output)
        except BaseException:
            restore(contents)  # where this fails too, the next decision or start does it
            forget(self.output)
            for path in filter(Path.exists, absent):
                path.rmdir() if path.is_dir() else path.unlink()
            raise


def _with_mask(photo: Path, entry: ManifestEntry) -> ManifestEntry:
    """The entry, if there is something to decide about."""
    if entry.mask is None:
        raise UserError(f"{photo.name} has no mask yet; draw the subject on it, or find it first")
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
