"""One folder of photos as the page shows it, the worst masks first, and what has changed since it last asked."""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import ManifestEntry
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.preprocessing.review_edits import ReviewEdits
from persam_dreambooth.text_files import is_text, readable

WAITING, LEFT_OUT, CHANGED = "waiting", "left out", "changed"
RANKS = {
    CHANGED: -1,
    "corrected": 1,
    "given": 1,
    "reference": 2,
    "approved": 2,
    "excluded": 3,
    WAITING: 4,
    LEFT_OUT: 5,
}
"""Order of statuses in the list; all others rank 0."""
COMPARING = 0.2
"""Seconds that one listing may spend on reading photos, to check that none has changed since its mask was made."""


@dataclass(frozen=True)
class PhotoState:
    """State of one photo.

    Attributes:
        photo: the file.
        version: identifies this state; a decision must name it.
        entry: its manifest line; None before its mask was found or drawn.
        can_undo: whether the last decision on it can be undone.
        is_changed: whether it is no longer the photo that its mask was made on; None if not compared yet.
    """

    photo: Path
    version: str
    entry: ManifestEntry | None
    can_undo: bool
    is_changed: bool | None = False

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask, made on this very photo."""
        return self.entry is not None and self.entry.mask is not None and not self.is_changed

    @property
    def status(self) -> str:
        """approved, excluded, changed, reference, corrected, given, found, unsure, not found, left out or waiting."""
        entry = self.entry
        if entry is None or (entry.mask is None and entry.error is None):
            return WAITING
        if entry.error is not None:
            return LEFT_OUT
        if entry.excluded:
            return "excluded"
        if self.is_changed:
            return CHANGED
        if entry.source == "reference":
            return "reference"
        if entry.review is not None:
            return entry.review
        return entry.source if entry.source in ("corrected", "given") else entry.presence or "found"

    @property
    def rank(self) -> tuple[int, float, float, str]:
        """Sort key: changed photos first, then uncertain masks, then poor ones, then those that a person reviewed."""
        entry = self.entry
        numbers = (entry.probability, entry.score) if entry else (None, None)
        probability, score = (math.inf if number is None else number for number in numbers)
        return RANKS.get(self.status, 0), probability, score, self.photo.name


class Album:
    """One folder of photos and the folder of its masks.

    Args:
        images: the photos.
        output: where the masks go.

    Attributes:
        compared: whether the last call of `states` had time to compare every photo with the one its mask was made on.

    Raises:
        UserError: no photo, or two whose masks would have the same name.
    """

    def __init__(self, images: Path, output: Path) -> None:
        self.images, self.output = images, output
        self.edits = ReviewEdits(output)
        self.compared = False
        self.photos()

    def photos(self) -> dict[str, Path]:
        """Return the photos by name, without links that lead out of the folder and names that are not UTF-8."""
        outside = set(self.links_out())
        photos = files.find_photos(self.images)
        return {photo.name: photo for photo in photos if photo.name not in outside and is_text(photo.name)}

    def not_shown(self) -> list[str]:
        """Return the names of the photos that are left out, with a question mark for each byte that is not UTF-8."""
        shown = self.photos()
        return [readable(photo.name) for photo in files.find_photos(self.images) if photo.name not in shown]

    def links_out(self) -> list[str]:
        """Return the names of links to photos outside the folder."""
        own = self.images.resolve()
        links = (path for path in files.list_photos(self.images) if path.is_symlink())
        return [link.name for link in links if not link.resolve().is_relative_to(own)]

    def photo(self, name: str) -> Path:
        """Return the path of a photo.

        Raises:
            UserError: the folder has no photo of that name.
        """
        path = self.images / name
        is_plain = Path(name).name == name and path.suffix.lower() in files.PHOTO_SUFFIXES and not name.startswith(".")
        if not is_plain or not path.is_file() or not path.resolve().is_relative_to(self.images.resolve()):
            raise UserError(f"there is no longer a photo {name!r} in {self.images}; reload the page")
        return path

    def states(self) -> list[PhotoState]:
        """Return the states of all photos, the worst first.

        Raises:
            UserError: the manifest is damaged.
        """
        entries, photos = self.edits.live.entries(), self.photos()
        until = time.monotonic() + COMPARING
        states = [self._state(photo, entries.get(photo.stem), until) for photo in photos.values()]
        self.compared = all(state.is_changed is not None for state in states)
        return sorted(states, key=lambda state: state.rank)

    def glance(self) -> list[tuple[int, int, int] | None]:
        """Return file states that change when photos are added or removed, or a mask or manifest line is written."""
        return [files.file_state(path) for path in (self.edits.manifest, self.images, self.output / "masks")]

    def state(self, name: str) -> PhotoState:
        """Return the current state of one photo; errors as for `photo` and `states`."""
        photo = self.photo(name)
        return self._state(photo, self.edits.live.get(photo.name))

    def _state(self, photo: Path, entry: ManifestEntry | None, until: float = math.inf) -> PhotoState:
        version = self.edits.version(photo, entry)
        is_changed = self.edits.is_changed(photo, entry, reads=time.monotonic() < until)
        return PhotoState(photo, version, entry, self.edits.can_undo(photo, version), is_changed)

    def references(self) -> tuple[ReferenceFiles, ...]:
        """Return the photos on which a person drew the subject or which were made a reference, with their masks."""
        return tuple(
            ReferenceFiles(state.photo, mask=self.edits.mask_path(state.photo))
            for state in sorted(self.states(), key=lambda state: state.photo)
            if state.status == "reference"
        )


TRUSTED = 30.0
"""Seconds for which folders with unchanged file states are assumed to be unchanged."""


class Changes:
    """Numbers the changes in one album; a page sends back the last number that it was told."""

    def __init__(self) -> None:
        self._counting, self._series = threading.Lock(), token_hex(4)
        self._number, self._gone = 0, 0
        self._glance: tuple[object, float] = (None, 0.0)
        self._photos: dict[str, tuple[tuple[str, bool, str], int]] = {}

    def is_told(self, glance: object, told: object) -> bool:
        """Return whether a page is up to date, as far as the file states (`glance`) show."""
        with self._counting:
            before, when = self._glance
            is_newest = told == f"{self._series}-{self._number}"
            return is_newest and before == glance and time.monotonic() - when < TRUSTED

    def since(self, states: Sequence[PhotoState], told: object, glance: object) -> tuple[list[PhotoState], bool, str]:
        """Return the photos that have changed since a page was told.

        Args:
            states: all photos as they are now.
            told: what an earlier call returned; anything else means that nothing was told.
            glance: file states from before `states` were read; None if they should be read again soon.

        Returns:
            The changed photos; whether the page keeps what it knows of the others; and the next value of `told`.
        """
        with self._counting:
            self._count(states)
            self._glance = glance, time.monotonic()
            series, _, number = told.partition("-") if isinstance(told, str) else ("", "", "")
            known = int(number) if series == self._series and number.isdecimal() and len(number) < 16 else -1
            keeps = max(0, self._gone) <= known <= self._number
            new = [state for state in states if not keeps or self._photos[state.photo.name][1] > known]
            return new, keeps, f"{self._series}-{self._number}"

    def _count(self, states: Sequence[PhotoState]) -> None:
        next_number, changed = self._number + 1, False
        for state in states:
            mark = state.version, state.can_undo, state.status
            before = self._photos.get(state.photo.name)
            if before is None or before[0] != mark:
                self._photos[state.photo.name] = mark, next_number
                changed = True
        if len(self._photos) > len(states):
            there = {state.photo.name for state in states}
            self._photos = {name: mark for name, mark in self._photos.items() if name in there}
            self._gone, changed = next_number, True
        self._number += changed
