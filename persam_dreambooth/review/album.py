"""One folder of photos as the page shows it: every photo with its mask's state, the worst first."""

import math
from dataclasses import dataclass
from pathlib import Path

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import ManifestEntry, read_manifest, stream_manifest
from persam_dreambooth.photos.names import is_text, readable
from persam_dreambooth.preprocessing.corrections import Corrections
from persam_dreambooth.references import ReferenceFiles

WAITING, LEFT_OUT = "waiting", "left out"


@dataclass(frozen=True)
class PhotoState:
    """One photo.

    Attributes:
        photo: the file.
        version: what a decision on it must name.
        entry: its line; None before its mask was found or drawn.
        can_undo: whether the last decision on it can be taken back.
    """

    photo: Path
    version: str
    entry: ManifestEntry | None
    can_undo: bool

    @property
    def status(self) -> str:
        """One of: approved, excluded, reference, corrected, given, found, unsure, not found, left out, waiting."""
        entry = self.entry
        if entry is None or (entry.mask is None and entry.error is None):
            return WAITING
        if entry.error is not None:
            return LEFT_OUT
        if entry.excluded:
            return "excluded"
        if entry.source == "reference":
            return "reference"
        if entry.review is not None:
            return entry.review
        return entry.source if entry.source in ("corrected", "given") else entry.presence or "found"

    @property
    def rank(self) -> tuple[int, float, float, str]:
        """What is to be looked at first: doubted masks, then poor ones; then what a person settled."""
        settled = {"corrected": 1, "given": 1, "reference": 2, "approved": 2, "excluded": 3, WAITING: 4, LEFT_OUT: 5}
        entry = self.entry
        numbers = (entry.probability, entry.score) if entry else (None, None)
        probability, score = (math.inf if one is None else one for one in numbers)
        return settled.get(self.status, 0), probability, score, self.photo.name


class Album:
    """One folder of photos and the folder of its masks.

    Args:
        images: the photos.
        output: where the masks go.

    Raises:
        UserError: no photo, or two whose masks would have one name.
    """

    def __init__(self, images: Path, output: Path) -> None:
        self.images, self.output = images, output
        self.corrections = Corrections(output)
        self.photos()

    def photos(self) -> dict[str, Path]:
        """The photos by name; links out of the folder, since nothing outside is served, and odd names are left out."""
        outside = set(self.links_out())
        photos = files.find_photos(self.images)
        return {photo.name: photo for photo in photos if photo.name not in outside and is_text(photo.name)}

    def not_shown(self) -> list[str]:
        """Names of the photos that are left out, as far as they can be read."""
        shown = self.photos()
        return [readable(photo.name) for photo in files.find_photos(self.images) if photo.name not in shown]

    def links_out(self) -> list[str]:
        """Names of links to photos outside of the folder."""
        own = self.images.resolve()
        links = (path for path in files.list_photos(self.images) if path.is_symlink())
        return [link.name for link in links if not link.resolve().is_relative_to(own)]

    def photo(self, name: str) -> Path:
        """One photo.

        Raises:
            UserError: the folder has none of that name.
        """
        path = self.images / name
        is_plain = Path(name).name == name and path.suffix.lower() in files.PHOTO_SUFFIXES and not name.startswith(".")
        if not is_plain or not path.is_file() or not path.resolve().is_relative_to(self.images.resolve()):
            raise UserError(f"there is no photo {name!r} in {self.images} any more; reload the page")
        return path

    def states(self) -> list[PhotoState]:
        """All photos, the worst first.

        Raises:
            UserError: the manifest is damaged.
        """
        entries = {Path(entry.photo).name: entry for entry in read_manifest(self.corrections.manifest)}
        states = [self._state(photo, entries.get(name)) for name, photo in self.photos().items()]
        return sorted(states, key=lambda state: state.rank)

    def state(self, name: str) -> PhotoState:
        """One photo as it is now; errors as `photo` and `states`."""
        photo = self.photo(name)
        newest = None
        for entry in stream_manifest(self.corrections.manifest):  # all of them: it says which line is damaged
            newest = entry if Path(entry.photo).stem == photo.stem else newest
        return self._state(photo, newest)

    def _state(self, photo: Path, entry: ManifestEntry | None) -> PhotoState:
        version = self.corrections.version(photo, entry)
        return PhotoState(photo, version, entry, self.corrections.can_undo(photo, version))

    def references(self) -> tuple[ReferenceFiles, ...]:
        """The photos that a person drew the subject on, or called a reference, with their masks."""
        return tuple(
            ReferenceFiles(state.photo, mask=self.corrections.mask_path(state.photo))
            for state in sorted(self.states(), key=lambda state: state.photo)
            if state.status == "reference"
        )
