"""A reviewer's edits of masks: saved at once, undone byte for byte, refused if they would overwrite newer ones."""

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
from persam_dreambooth.preprocessing.mask_store import SETTINGS_NAME
from persam_dreambooth.preprocessing.mask_writer import (
    JOURNAL_NAME,
    draw,
    files_of,
    forget,
    remember,
    restore,
    roll_back,
)

REMEMBERED = 20
"""Number of decisions on one photo that can be undone."""
Review = Literal["approved", "excluded"]


class Conflict(UserError):
    """The photo's mask or manifest line has changed since the reviewer saw it; nothing was written."""


@dataclass(frozen=True)
class _Step:
    """State before and after one decision, for undo.

    Attributes:
        line: the photo's manifest line before the decision; None if it had none.
        contents: its files' contents before the decision; None for an absent file.
        after: the photo's version after the decision.
        start: byte offset of the line that the decision appended to the manifest.
        added: that line.
    """

    line: bytes | None
    contents: Mapping[Path, bytes | None]
    after: str
    start: int
    added: bytes


class ReviewEdits:
    """A reviewer's edits of the masks and the manifest of one subject; undo lasts as long as this object.

    Every edit takes `seen`, the version of the photo that the reviewer saw.

    Args:
        output: the subject's output folder, as `segment_folder` writes it; it need not exist yet.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.manifest = output / MANIFEST_NAME
        self.live = LiveManifest(self.manifest)
        self._versions: dict[Path, tuple[ManifestEntry | None, str, str]] = {}
        self._photos: dict[Path, tuple[tuple[int, int, int], str]] = {}
        self._steps: dict[Path, deque[_Step]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        if (output / JOURNAL_NAME).exists():  # left by a server that was killed
            with self._locked():
                pass

    def mask_path(self, photo: Path) -> Path:
        """Return the path of a photo's mask, whether it exists or not."""
        return self.output / "masks" / f"{photo.stem}.png"

    def version(self, photo: Path, entry: ManifestEntry | None) -> str:
        """Return a short digest of a photo's entry and mask, which changes when either changes."""
        digest, known = _digest(self.mask_path(photo)), self._versions.get(photo)
        if known is None or known[0] is not entry or known[1] != digest:
            line = b"" if entry is None else format_line(entry)
            known = entry, digest, hashlib.sha256(line + digest.encode()).hexdigest()[:16]
            self._versions[photo] = known
        return known[2]

    def is_changed(self, photo: Path, entry: ManifestEntry | None, reads: bool = True) -> bool | None:
        """Return whether a photo has changed since its mask was made.

        Args:
            photo: the file.
            entry: its manifest entry; None if it has none.
            reads: whether the file may be read; if not, None is returned where reading is necessary.
        """
        if entry is None or entry.mask is None or not entry.digest:
            return False
        key = files.file_state(photo)
        if key is None:
            return False
        known = self._photos.get(photo)
        if known is None or known[0] != key:
            if not reads:
                return None
            known = self._photos[photo] = key, files.digest(photo)
        return known[1] not in ("", entry.digest)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers out for the block; first roll back a decision that was interrupted."""
        with locked(self.manifest):
            roll_back(self.output)
            yield

    def correct(self, photo: Path, mask: NDArray[np.bool_], seen: str, changes: Mapping[str, Any]) -> None:
        """Replace a photo's mask.

        Args:
            photo: the file.
            mask: (H, W) bool, of the upright photo's size.
            seen: the version that the new mask was made from.
            changes: fields of the entry that do not follow from the mask, such as `score`.

        Raises:
            Conflict: the photo has another version now.
            UserError: the photo cannot be read, or the mask has another size.
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
        self._decide(photo, seen, lambda entry: draw(self.output, image, mask, replace(entry, **{**own, **changes})))

    def judge(self, photo: Path, review: Review | None, seen: str) -> None:
        """Approve or exclude a photo; with None, undo either.

        Raises:
            Conflict: the photo has another version now.
            UserError: it has no mask, or has changed since its mask was made; then it can only be excluded.
        """
        check = _with_mask if review == "excluded" else self._with_its_mask
        self._decide(photo, seen, lambda entry: replace(check(photo, entry), review=review))

    def refer(self, photo: Path, is_reference: bool, seen: str) -> None:
        """Make this photo a reference for the others, or an ordinary corrected photo again.

        Raises:
            Conflict: the photo has another version now.
            UserError: it has no mask, or has changed since its mask was made.
        """
        source, review = ("reference", "approved") if is_reference else ("corrected", None)
        self._decide(
            photo, seen, lambda entry: replace(self._with_its_mask(photo, entry), source=source, review=review)
        )

    def undo(self, photo: Path, seen: str) -> None:
        """Undo the last decision on a photo, so that its files and manifest line are as before, byte for byte.

        Raises:
            Conflict: the photo has another version now.
            UserError: there is nothing to undo.
        """
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
                    pass  # it was the last line, so the manifest is as before
                elif step.line is None:
                    put_line(self.manifest, photo.name, None)
                else:
                    append_line(self.manifest, step.line)
            self._steps[photo].pop()

    def can_undo(self, photo: Path, version: str) -> bool:
        """Return whether `undo` can undo a decision on this version of a photo."""
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
        """Restore a photo's files if the block, which changes them and writes the line last, fails or is killed.

        Yields:
            The contents of the files before the block; None for an absent file.
        """
        paths, settings = files_of(self.output, photo.stem), self.output / SETTINGS_NAME
        contents = {path: path.read_bytes() if path.is_file() else None for path in paths}
        absent = [path for path in (settings, *(path.parent for path in paths)) if not path.exists()]
        try:
            if not settings.exists():  # first, because they mark the folder as ours; the first run takes it over
                files.write_json({}, settings)
            line = self.live.get(photo.name)
            remember(self.output, photo.stem, None if line is None else format_line(line), contents)
            yield contents
            forget(self.output)
        except BaseException:
            restore(contents)  # if this fails too, the journal is rolled back at the next decision or start
            forget(self.output)
            for path in filter(Path.exists, absent):
                path.rmdir() if path.is_dir() else path.unlink()
            raise


def _with_mask(photo: Path, entry: ManifestEntry) -> ManifestEntry:
    """Return the entry if it has a mask; otherwise raise a UserError."""
    if entry.mask is None:
        raise UserError(f"{photo.name} has no mask yet; draw the subject on it, or find it first")
    return entry


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, cached until the file changes; "" if it is absent."""
    state = files.file_state(path)
    return "" if state is None else _digest_of(path, *state)


@lru_cache(maxsize=100_000)
def _digest_of(path: Path, *_state: int) -> str:
    return files.digest(path)
