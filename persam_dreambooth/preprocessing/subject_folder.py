"""The folder that a run leaves of one subject: masks, overlays, contact sheet, manifest, settings, subject file."""

import heapq
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.atomic_io import UNFINISHED, clear_unfinished
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, rendering, video_io
from persam_dreambooth.photos.manifest import (
    MANIFEST_NAME,
    OWN_FILES,
    ManifestEntry,
    ManifestIndex,
    append_entry,
    locked,
    relative_path,
    stream_manifest,
    write_manifest,
)
from persam_dreambooth.preprocessing.finder import Found
from persam_dreambooth.preprocessing.loading import LoadedPhoto
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.preprocessing.rollback import roll_back
from persam_dreambooth.segmentation import Subject
from persam_dreambooth.segmentation.frame import bounding_box

logger = logging.getLogger(__name__)
SETTINGS_NAME, SHEET_NAME, SUBJECT_NAME = "segmentation.json", "contact_sheet.png", "subject.safetensors"
FOLDERS = ("masks", "overlays", "instances")
AGAIN = "choose another output folder, or take this one over with `persam-dreambooth segment --again`"
SHEET_PHOTOS = 120
"""A contact sheet shows at most so many photos, the least certain ones."""


class SubjectFolder:
    """Files of one subject, written one photo at a time, by one process or several.

    Args:
        path: the folder.
        process: number of the process; each has its own journal until `gather`.
        digest: `files.digest` of a photo, or what remembers its answers.
    """

    def __init__(self, path: Path, process: int = 0, digest: Callable[[Path], str] = files.digest) -> None:
        self.path, self._digest = path, digest
        self._manifest = path / MANIFEST_NAME
        self._journal = self._manifest.with_suffix(f".{process}.jsonl") if process else self._manifest
        self._seen: tuple[int, int, int] | None = None
        self._reviewed = set[str]()

    def refuse_other_runs(self, settings: dict[str, Any]) -> None:
        """Raise a UserError unless the folder is empty, absent, or an earlier call's with these settings."""
        files.refuse_other_runs(self.path, SETTINGS_NAME, settings, "segmentation run", self._own_names(), AGAIN)

    def gather(self) -> None:
        """All journals into the manifest, the newest line of each photo, without the half line of a killed run."""
        if self._manifest.exists() or self._journals():
            with locked(self._manifest):
                roll_back(self.path)
                self.clear_leftovers()
                self._replace(self._newest())

    def refuse_foreign_files(self) -> None:
        """Raise a UserError unless the folder is empty, absent, or has a run's settings or a manifest."""
        names = [path.name for path in self.path.iterdir()] if self._manifest.exists() else self._own_names()
        files.refuse_other_runs(self.path, SETTINGS_NAME, {}, "segmentation run", names)

    def _own_names(self) -> list[str]:
        """What a run leaves in a folder that was killed before it wrote its settings."""
        unfinished = [path.name for path in self.path.glob(f"{UNFINISHED}*")] if self.path.is_dir() else []
        return [SUBJECT_NAME, files.UNREAD_NAME, *unfinished]

    def clear_leftovers(self) -> None:
        """Remove what killed writers left; to be called while nobody else writes here."""
        for folder in (self.path, *(self.path / name for name in FOLDERS)):
            if folder.is_dir() and not folder.is_symlink():
                clear_unfinished(folder)

    def begin_again(self, settings: dict[str, Any], references: Sequence[ReferenceFiles]) -> ManifestIndex:
        """Make the folder another run's: what a person made or judged stays, what was found is to be found anew.

        Args:
            settings: the new run's.
            references: its own, whose masks take the place of those that their photos had as references.

        Returns:
            The manifest as it was.
        """
        with locked(self._manifest):
            roll_back(self.path)
            self.clear_leftovers()
            before = self._newest()
            given_up = [entry for entry in before if not entry.reviewed or self._is_outdated(entry, references)]
            # Masks go before their lines: of a mask without a line nobody knows that it was doubted.
            theirs = {drawing.resolve() for reference in references for drawing in reference.drawings}
            for path in {self.path / name for entry in given_up for name in _files(entry)}:
                if path.resolve() not in theirs:
                    path.unlink(missing_ok=True)
            self._replace(entry for entry in before if entry.reviewed and not self._is_outdated(entry, references))
            files.write_json(settings, self.path / SETTINGS_NAME)
        return before

    def _is_outdated(self, entry: ManifestEntry, references: Sequence[ReferenceFiles]) -> bool:
        """Whether an entry is of a reference that is given anew, and not by the mask that lies here."""
        photo, mask = ((self.path / str(path)).resolve() for path in (entry.photo, entry.mask))
        own = [one for one in references if one.image.resolve() == photo]
        return entry.source == "reference" and any(not one.mask or one.mask.resolve() != mask for one in own)

    def keep_reviewed(self, photos: Sequence[Path]) -> None:
        """Keep what a person made or judged where its photo was moved or saved anew, or its overlay is gone.

        Where the mask is gone or the photo has another size, the line goes, so that the subject is found anew.
        """
        if not self._manifest.exists():
            return
        by_stem = {photo.stem: photo for photo in photos}
        with locked(self._manifest):
            renewed = (self._renewed(by_stem.get(Path(entry.photo).stem), entry) for entry in self.known())
            self._replace(entry for entry in renewed if entry is not None)

    def _is_as_it_was(self, photo: Path, entry: ManifestEntry) -> bool:
        there = all(name is not None and (self.path / name).exists() for name in (entry.mask, entry.overlay))
        return there and entry.photo == relative_path(photo, self.path) and entry.digest == self._digest(photo)

    def _renewed(self, photo: Path | None, entry: ManifestEntry) -> ManifestEntry | None:
        """The entry for the photo as it is now, None if a person's mask does not fit it any more."""
        if photo is None or not entry.reviewed or self._is_as_it_was(photo, entry):
            return entry
        try:
            image, path = files.read_photo(photo), self.path / str(entry.mask)
            if entry.mask is None or not path.exists():
                return None
            mask = files.read_mask(path)
        except UserError:  # the line of what cannot be read says so later
            return entry
        if mask.shape != image.size[::-1]:
            logger.warning(f"the mask of {photo.name} was made on a photo of another size; the subject is found anew")
            return None
        moved = replace(entry, photo=relative_path(photo, self.path), digest=self._digest(photo))
        return self.draw(image, mask, moved)

    def known(self) -> ManifestIndex:
        """The manifest's lines as they are now."""
        return ManifestIndex(self._manifest)

    def _newest(self) -> ManifestIndex:
        return ManifestIndex(self._manifest, *self._journals())

    def _journals(self) -> list[Path]:
        return sorted(self.path.glob(f"{Path(MANIFEST_NAME).stem}.*.jsonl"))

    def _replace(self, entries: Iterable[ManifestEntry]) -> None:
        """Write the manifest, which then holds all that the journals held."""
        write_manifest(self._manifest, entries)
        for path in self._journals():
            path.unlink()

    def is_finished(self, photo: Path, known: ManifestIndex, with_instances: bool) -> bool:
        """Whether an earlier call made the photo's mask and the photo has not changed since."""
        entry = known.get(photo.name)
        if entry is None or entry.photo != relative_path(photo, self.path) or entry.error is not None:
            return False
        wanted = [entry.mask, entry.overlay]
        if with_instances and entry.source == "persam" and not entry.reviewed:
            wanted.append(entry.instances)
        written = all(name is not None and (self.path / name).exists() for name in wanted)
        return written and entry.digest == self._digest(photo)

    def open(self, subject: Subject, settings: dict[str, Any]) -> None:
        """Make the folder this run's; the settings come first, since by them the next call knows it."""
        with locked(self._manifest):
            self.clear_leftovers()
            files.write_json(settings, self.path / SETTINGS_NAME)
            subject.save(self.path / SUBJECT_NAME)
            (self.path / SHEET_NAME).unlink(missing_ok=True)  # of what was there before

    def add_unreadable(self, photo: LoadedPhoto) -> None:
        """The line of a photo that cannot be decoded."""
        self._append(ManifestEntry(relative_path(photo.path, self.path), photo.digest, error=photo.error))

    def add(self, photo: LoadedPhoto, found: Found, with_instances: bool) -> None:
        """Save one photo's mask and overlay, then its line; a mask that a person made in the meantime stays."""
        assert photo.image is not None
        first = found.instances[0] if found.instances else None
        presence = found.presence
        entry = ManifestEntry(
            photo=relative_path(photo.path, self.path),
            digest=photo.digest,
            source="persam" if first else "reference",
            score=round(max(one.score for one in found.instances), 6) if first else None,
            presence=presence.verdict if presence else None,
            probability=round(presence.probability, 6) if presence else None,
            reason=presence.reason if presence else None,
            instances=f"instances/{photo.path.stem}.png" if with_instances and first else None,
            points=[point for one in found.instances for point in one.points.tolist()],
            point_labels=[label for one in found.instances for label in one.point_labels.tolist()],
            warnings=[warning for one in found.instances for warning in one.warnings],
        )
        drawn, contents = self._render(photo.image, found.mask, entry)
        with locked(self._manifest):
            if self._was_reviewed(photo.path):
                return
            # The line comes between the old files and the new ones. Stopped anywhere, some file is missing, so that
            # the next call finds the photo again; and no mask lies there whose line is another's. A user's own mask
            # may be the very file that was given, and is not for us to remove.
            for name in _files(drawn) if first else ():
                (self.path / name).unlink(missing_ok=True)
            append_entry(self._journal, drawn)
            self._seen = _state(self._manifest)
            if drawn.instances:
                numbered = [one.mask * np.uint8(number) for number, one in enumerate(found.instances, start=1)]
                video_io.write_labels(np.max(numbered, axis=0), self.path / drawn.instances)
            for path, content in contents.items():
                files.write_bytes(content, path)

    def draw(self, image: Image.Image, mask: NDArray[np.bool_], entry: ManifestEntry) -> ManifestEntry:
        """Save a photo's mask and overlay.

        Args:
            image: the upright photo.
            mask: (H, W) bool of its size.
            entry: its line, of which photo, points and labels are read.

        Returns:
            The line with everything that follows from the mask.
        """
        drawn, contents = self._render(image, mask, entry)
        for path, content in contents.items():
            files.write_bytes(content, path)
        return drawn

    def _render(
        self, image: Image.Image, mask: NDArray[np.bool_], entry: ManifestEntry
    ) -> tuple[ManifestEntry, dict[Path, bytes]]:
        """The line and the files of `draw`, the mask first, before anything is written."""
        stem, box = Path(entry.photo).stem, bounding_box(torch.from_numpy(mask))
        name, overlay = (OWN_FILES[key].format(stem) for key in ("mask", "overlay"))
        levels = files.encoded(Image.fromarray(mask.astype(np.uint8) * 255), "PNG")
        picture = files.encoded(rendering.overlay(image, mask, entry.points, entry.point_labels), "JPEG")
        drawn = replace(
            entry,
            width=image.width,
            height=image.height,
            mask=name,
            mask_digest=sha256(levels).hexdigest(),
            overlay=overlay,
            box=None if box is None else box.tolist(),
        )
        return drawn, {self.path / name: levels, self.path / overlay: picture}

    def _append(self, entry: ManifestEntry) -> None:
        with locked(self._manifest):
            append_entry(self._journal, entry)
            self._seen = _state(self._manifest)

    def _was_reviewed(self, photo: Path) -> bool:
        """Whether a person made or judged the mask since this run looked at the photo; in a `locked` block.

        The manifest is read again only when somebody else has written to it.
        """
        now = _state(self._manifest)
        if now != self._seen:
            self._reviewed = {Path(entry.photo).stem for entry in self.known() if entry.reviewed}
            self._seen = now
        return photo.stem in self._reviewed

    def close(self, photos: Sequence[Path], before: ManifestIndex) -> None:
        """Sort the manifest, remove what photos that left had left, draw the contact sheet.

        Args:
            photos: all of the run's.
            before: the manifest as it was when the run began.

        Raises:
            UserError: somebody removed the folder while the run went on.
        """
        if not (self.path / SETTINGS_NAME).exists():
            raise UserError(f"{self.path} was removed while its photos were segmented; run the command again")
        sheet = self.path / SHEET_NAME
        with locked(self._manifest):
            newest = self._newest()
            stems = {photo.stem for photo in photos}
            left = [entry for entry in before if Path(entry.photo).stem not in stems]
            # Sheet and files go before the lines: stopped in between, the next call does the rest.
            if left or any(old != new for old, new in zip_longest(before, newest)):
                sheet.unlink(missing_ok=True)
            for name in {name for entry in left for name in _files(entry)}:
                (self.path / name).unlink(missing_ok=True)
            # One may be missing: drawn while it was looked at, and taken back. The next run looks at it.
            self._replace(entry for photo in photos if (entry := newest.get(photo.name)) is not None)
        if any(self._readable()) and not sheet.exists():
            files.write_picture(self._contact_sheet(), sheet)

    def entries(self) -> Iterator[ManifestEntry]:
        """The manifest's."""
        return stream_manifest(self._manifest)

    def _readable(self) -> Iterator[ManifestEntry]:
        return (entry for entry in self.entries() if entry.error is None)

    def _contact_sheet(self) -> Image.Image:
        """Overlays with names and scores on one sheet; of a large album the least certain photos."""
        shown = list(islice(self._readable(), SHEET_PHOTOS + 1))
        if len(shown) > SHEET_PHOTOS:
            shown = heapq.nsmallest(SHEET_PHOTOS, self._readable(), key=_certainty)
        pictures, captions = [], []
        for entry in shown:
            picture = files.read_picture(self.path / str(entry.overlay))
            picture.thumbnail((rendering.TILE, rendering.TILE))
            pictures.append(picture)
            quality = "reference" if entry.score is None else f"{min(entry.score, 1):.2f}"
            doubt = f"  {entry.presence}" if entry.uncertain else ""
            captions.append(f"{Path(entry.photo).stem}  {quality}{doubt}")
        return rendering.sheet(pictures, captions)


def _files(entry: ManifestEntry) -> set[str]:
    """What a run wrote for one photo, relative to the folder."""
    return {name for name in (entry.mask, entry.overlay, entry.instances) if name is not None}


def _state(path: Path) -> tuple[int, int, int] | None:
    """What tells whether somebody wrote to a file."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return None
    return now.st_ino, now.st_size, now.st_mtime_ns


def _certainty(entry: ManifestEntry) -> tuple[float, float]:
    """What a photo is sorted by: whether the subject is there, then the mask's quality; references come last."""
    probability, score = (math.inf if one is None else one for one in (entry.probability, entry.score))
    return probability, score
