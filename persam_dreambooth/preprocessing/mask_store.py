"""The output folder of one subject: the run it belongs to, the finished masks, and what a new run keeps."""

import heapq
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from persam_dreambooth.atomic_io import UNFINISHED, clear_unfinished
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, rendering
from persam_dreambooth.photos.listing import where
from persam_dreambooth.photos.manifest import (
    MANIFEST_NAME,
    ManifestEntry,
    ManifestIndex,
    locked,
    relative_path,
    stream_manifest,
    write_manifest,
)
from persam_dreambooth.preprocessing.mask_writer import CONFIDENCE, confidence_path, draw, remove_files, roll_back
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import Subject

SETTINGS_NAME, SUBJECT_NAME = "segmentation.json", "subject.safetensors"
FOLDERS = ("masks", "overlays", "instances", CONFIDENCE)
REMEDY = "choose another output folder, or take this one over with `persam-dreambooth segment --again`"

logger = logging.getLogger(__name__)


class MaskStore:
    """The output folder of one subject in one run; `MaskWriter` adds the masks to it.

    Args:
        path: the folder; it need not exist yet.
        settings: of the run, as JSON values; the folder belongs to the run whose settings it holds.
        references: the subject's. In a folder that is taken over, their masks replace the masks of earlier
            references of the same photos.
        with_instances: whether the run also saves instances.
        with_confidence: whether it also draws confidence maps.
        digest: `files.digest`, or a cached version of it for photos that do not change during the run.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any] = MappingProxyType({}),
        references: Sequence[ReferenceFiles] = (),
        with_instances: bool = False,
        with_confidence: bool = False,
        digest: Callable[[Path], str] = files.digest,
    ) -> None:
        self.path, self._settings, self._references = path, dict(settings), references
        self._with_instances, self._with_confidence, self._digest = with_instances, with_confidence, digest
        self._manifest = path / MANIFEST_NAME
        self._before: ManifestIndex

    def entries(self) -> Iterator[ManifestEntry]:
        """Yield the manifest's entries one by one, in the file's order."""
        return stream_manifest(self._manifest)

    def check(self, again: bool = False) -> None:
        """Refuse a folder unless it is absent, empty, or from a run with the same settings.

        Args:
            again: the run may take the folder over: also accept one with other settings, or with a manifest.

        Raises:
            UserError: the folder is refused.
        """
        settings, names, remedy = self._settings, self._early_files(), REMEDY
        if again:
            settings, remedy = {}, "choose another output folder"
            names = [path.name for path in self.path.iterdir()] if self._manifest.exists() else names
        files.refuse_other_runs(self.path, SETTINGS_NAME, settings, "segmentation run", names, remedy)

    def begin(self, photos: Sequence[Path], again: bool = False) -> None:
        """Continue the earlier run of the folder, or take it over.

        The journals of earlier processes are merged into the manifest, and the entries and overlays of reviewed
        masks are updated if their photos were moved or saved again. If such a mask is missing or its photo has
        another size now, its entry is dropped, so that the photo is segmented again.

        Args:
            photos: all photos of the run.
            again: take over: keep only the masks that a person made or judged.
        """
        if not (again or self._manifest.exists() or self._journals()):
            self._before = ManifestIndex(self._manifest)
            return
        by_stem = {photo.stem: photo for photo in photos}
        with self._rewriting() as self._before:
            kept = self._without_unreviewed() if again else self._before
            updated = (self._updated(entry, by_stem.get(Path(entry.photo).stem)) for entry in kept)
            self._rewrite(entry for entry in updated if entry is not None)
            if again:
                files.write_json(self._settings, self.path / SETTINGS_NAME)

    def unfinished(self, photos: Sequence[Path], quiet: bool = False) -> list[Path]:
        """List the photos that lack their mask, or have changed since it was made.

        Args:
            photos: photos of the run.
            quiet: show no progress.
        """
        index = ManifestIndex(self._manifest)
        compared = tqdm(photos, desc="Comparing", delay=2, disable=quiet)
        return [photo for photo in compared if not self._is_finished(photo, index.get(photo.name))]

    def open(self, subject: Subject) -> None:
        """Make the folder this run's: remove an earlier contact sheet, write settings and subject.

        The settings come first, since they tell the next run which run the folder belongs to.
        """
        with locked(self._manifest):
            remove_sheet(self.path)
            self._clear_unfinished()
            files.write_json(self._settings, self.path / SETTINGS_NAME)
            subject.save(self.path / SUBJECT_NAME)

    def finish(self, photos: Sequence[Path], unread: Mapping[Path, str] = MappingProxyType({})) -> None:
        """Merge the journals, sort the manifest, remove the files of photos that are gone, draw the contact sheet.

        Args:
            photos: all photos of the run, in the order of the manifest.
            unread: the other files beside them; see `files.note_unread`.

        Raises:
            UserError: the folder was removed during the run.
        """
        if not (self.path / SETTINGS_NAME).exists():
            raise UserError(f"{self.path} was removed while its photos were segmented; run the command again")
        stems = {photo.stem for photo in photos}
        with self._rewriting() as newest:
            gone = [entry for entry in self._before if Path(entry.photo).stem not in stems]
            # Sheet and files go before the entries: if the run is killed in between, the next one does the rest.
            if gone or any(old != new for old, new in zip_longest(self._before, newest)):
                remove_sheet(self.path)
            for entry in gone:
                remove_files(self.path, entry)
            # A photo has no entry if its mask was drawn and undone during the run; the next run segments it.
            self._rewrite(found for photo in photos if (found := newest.get(photo.name)) is not None)
        write_sheet(self.path, self.entries)
        files.note_unread(unread, self.path)

    def _journals(self) -> list[Path]:
        return sorted(self.path.glob(f"{Path(MANIFEST_NAME).stem}.*.jsonl"))

    def _early_files(self) -> list[str]:
        """List the names of files that a run leaves if it is killed before it has written its settings."""
        unfinished = [path.name for path in self.path.glob(f"{UNFINISHED}*")] if self.path.is_dir() else []
        return [SUBJECT_NAME, files.UNREAD_NAME, *unfinished]

    @contextmanager
    def _rewriting(self) -> Iterator[ManifestIndex]:
        """Lock the manifest for the block, repair what a killed process left, and yield the newest entries."""
        with locked(self._manifest):
            roll_back(self.path)
            self._clear_unfinished()
            yield ManifestIndex(self._manifest, *self._journals())

    def _rewrite(self, entries: Iterable[ManifestEntry]) -> None:
        """Replace manifest and journals by one manifest; to be called in a `_rewriting` block."""
        write_manifest(self._manifest, entries)
        for path in self._journals():
            path.unlink()

    def _clear_unfinished(self) -> None:
        """Remove the unfinished files of killed writers; to be called while nobody else writes here."""
        for folder in (self.path, *(self.path / name for name in FOLDERS)):
            if folder.is_dir() and not folder.is_symlink():
                clear_unfinished(folder)

    def _without_unreviewed(self) -> Iterator[ManifestEntry]:
        """Remove the files of all masks that no person made or judged; return the other entries.

        Masks go before their entries: without its entry, nobody knows that a mask was uncertain.
        """
        given = frozenset(where(path) for reference in self._references for path in reference.drawings)
        kept = [entry.reviewed and not self._is_outdated(entry) for entry in self._before]
        for entry, stays in zip(self._before, kept, strict=True):
            if not stays:
                remove_files(self.path, entry, keep=given)
        return (entry for entry, stays in zip(self._before, kept, strict=True) if stays)

    def _is_outdated(self, entry: ManifestEntry) -> bool:
        """Return whether an entry holds an earlier reference mask of a photo that is now given with another one."""
        photo, mask = ((self.path / str(path)).resolve() for path in (entry.photo, entry.mask))
        given = [reference.mask for reference in self._references if reference.image.resolve() == photo]
        return entry.source == "reference" and any(path is None or path.resolve() != mask for path in given)

    def _is_finished(self, photo: Path, entry: ManifestEntry | None) -> bool:
        """Return whether a photo has its mask, and has not changed since the mask was made."""
        if entry is None or entry.error is not None:
            return False
        names = [entry.mask, entry.overlay]
        if entry.was_found and not entry.reviewed:
            if self._with_instances:
                names.append(entry.instances)
            if self._with_confidence and not confidence_path(self.path, entry).exists():
                return False
        return self._has_files(*names) and self._describes(entry, photo)

    def _updated(self, entry: ManifestEntry, photo: Path | None) -> ManifestEntry | None:
        """Return the entry for the photo as it is now; None if a reviewed mask no longer fits it."""
        if photo is None or not entry.reviewed:
            return entry
        if self._has_files(entry.mask, entry.overlay) and self._describes(entry, photo):
            return entry
        try:
            image, path = files.read_photo(photo), self.path / str(entry.mask)
            if entry.mask is None or not path.exists():
                return None
            mask = files.read_mask(path)
        except UserError:  # reported later, in the entry of the unreadable photo
            return entry
        if mask.shape != image.size[::-1]:
            logger.warning(f"the mask of {photo.name} was made on a photo of another size; segmenting the photo again")
            return None
        entry = replace(entry, photo=relative_path(photo, self.path), digest=self._digest(photo))
        return draw(self.path, image, mask, entry)

    def _describes(self, entry: ManifestEntry, photo: Path) -> bool:
        """Return whether an entry is of the photo as it is now: same path, same bytes."""
        return entry.photo == relative_path(photo, self.path) and entry.digest == self._digest(photo)

    def _has_files(self, *names: str | None) -> bool:
        return all(name is not None and (self.path / name).exists() for name in names)


SHEET_NAME = "contact_sheet.png"
SHEET_PHOTOS = 120
"""Largest number of photos on a contact sheet."""


def write_sheet(folder: Path, entries: Callable[[], Iterator[ManifestEntry]]) -> None:
    """Draw the contact sheet, unless it exists or there is no mask.

    Args:
        folder: the subject's output folder.
        entries: yields the manifest's entries, from the first at each call.
    """
    if (folder / SHEET_NAME).exists():
        return

    def readable() -> Iterator[ManifestEntry]:
        return (entry for entry in entries() if entry.error is None)

    shown = list(islice(readable(), SHEET_PHOTOS + 1))
    if len(shown) > SHEET_PHOTOS:
        shown = heapq.nsmallest(SHEET_PHOTOS, readable(), key=_certainty)
    pictures, captions = [], []
    for entry in shown:
        picture = files.read_picture(folder / str(entry.overlay))
        picture.thumbnail((rendering.TILE, rendering.TILE))
        pictures.append(picture)
        quality = "reference" if entry.score is None else f"{min(entry.score, 1):.2f}"
        presence = f"  {entry.presence}" if entry.uncertain else ""
        captions.append(f"{Path(entry.photo).stem}  {quality}{presence}")
    if pictures:
        files.write_picture(rendering.sheet(pictures, captions), folder / SHEET_NAME)


def remove_sheet(folder: Path) -> None:
    """Remove the contact sheet, because its masks have changed."""
    (folder / SHEET_NAME).unlink(missing_ok=True)


def _certainty(entry: ManifestEntry) -> tuple[float, float]:
    """Sort key: probability that the subject is there, then predicted IoU; references come last."""
    probability, score = (math.inf if value is None else value for value in (entry.probability, entry.score))
    return probability, score
