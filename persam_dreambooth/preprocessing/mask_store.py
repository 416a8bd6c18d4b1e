"""Masks, overlays and manifest of one subject: read, and written one photo at a time, each whole or not at all."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.atomic_io import UNFINISHED, clear_unfinished
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
from persam_dreambooth.preprocessing.rollback import roll_back
from persam_dreambooth.segmentation import Subject
from persam_dreambooth.segmentation.frame import bounding_box

SETTINGS_NAME, SUBJECT_NAME = "segmentation.json", "subject.safetensors"
FOLDERS = ("masks", "overlays", "instances")
AGAIN = "choose another output folder, or take this one over with `persam-dreambooth segment --again`"


class MaskStore:
    """The output folder of one subject, written by one process or several.

    Args:
        path: the folder.
        process: number of the process; each has its own journal until `rewrite`.
        digest: `files.digest` of a photo, or a cached version of it.
    """

    def __init__(self, path: Path, process: int = 0, digest: Callable[[Path], str] = files.digest) -> None:
        self.path, self._digest = path, digest
        self._manifest = path / MANIFEST_NAME
        self._journal = self._manifest.with_suffix(f".{process}.jsonl") if process else self._manifest
        self._seen: tuple[int, int, int] | None = None
        self._reviewed = set[str]()

    def known(self) -> ManifestIndex:
        """The manifest's entries as they are now."""
        return ManifestIndex(self._manifest)

    def entries(self) -> Iterator[ManifestEntry]:
        """The manifest's entries, read one after the other in the file's order."""
        return stream_manifest(self._manifest)

    def exists(self) -> bool:
        """Whether a manifest or journals are there."""
        return self._manifest.exists() or bool(self._journals())

    def refuse_other_runs(self, settings: dict[str, Any]) -> None:
        """Raise a UserError unless the folder is empty, absent, or an earlier call's with these settings."""
        files.refuse_other_runs(self.path, SETTINGS_NAME, settings, "segmentation run", self._own_names(), AGAIN)

    def refuse_foreign_files(self) -> None:
        """Raise a UserError unless the folder is empty, absent, or has a run's settings or a manifest."""
        names = [path.name for path in self.path.iterdir()] if self._manifest.exists() else self._own_names()
        files.refuse_other_runs(self.path, SETTINGS_NAME, {}, "segmentation run", names)

    def _own_names(self) -> list[str]:
        """What a run leaves in a folder that was killed before it wrote its settings."""
        unfinished = [path.name for path in self.path.glob(f"{UNFINISHED}*")] if self.path.is_dir() else []
        return [SUBJECT_NAME, files.UNREAD_NAME, *unfinished]

    @contextmanager
    def rewriting(self) -> Iterator[ManifestIndex]:
        """Keep all other writers out for a block; yields the newest entries, the journals' and the manifest's.

        What a killed process left half-written is cleared away or rolled back first.
        """
        with locked(self._manifest):
            roll_back(self.path)
            self._clear_leftovers()
            yield ManifestIndex(self._manifest, *self._journals())

    def rewrite(self, entries: Iterable[ManifestEntry]) -> None:
        """Write the whole manifest, which then replaces all journals; in a `rewriting` block."""
        write_manifest(self._manifest, entries)
        for path in self._journals():
            path.unlink()

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Write the run's settings, by which the next call recognizes the folder."""
        files.write_json(settings, self.path / SETTINGS_NAME)

    def remove_files(self, entries: Iterable[ManifestEntry], but: Iterable[Path] = ()) -> None:
        """Remove the masks, overlays and instances of some entries.

        Args:
            entries: of this folder's manifest.
            but: resolved paths of files that stay: masks that the user gave.
        """
        for path in {self.path / name for entry in entries for name in _files(entry)}:
            if path.resolve() not in but:
                path.unlink(missing_ok=True)

    def _journals(self) -> list[Path]:
        return sorted(self.path.glob(f"{Path(MANIFEST_NAME).stem}.*.jsonl"))

    def _clear_leftovers(self) -> None:
        """Remove what killed writers left; while nobody else writes here."""
        for folder in (self.path, *(self.path / name for name in FOLDERS)):
            if folder.is_dir() and not folder.is_symlink():
                clear_unfinished(folder)

    def describes(self, photo: Path, entry: ManifestEntry) -> bool:
        """Whether an entry is of the photo as it is now: the same path, the same bytes."""
        return entry.photo == relative_path(photo, self.path) and entry.digest == self._digest(photo)

    def has_files(self, *names: str | None) -> bool:
        """Whether all of these files of an entry are there."""
        return all(name is not None and (self.path / name).exists() for name in names)

    def is_finished(self, photo: Path, known: ManifestIndex, with_instances: bool) -> bool:
        """Whether an earlier call made the photo's mask and the photo has not changed since."""
        entry = known.get(photo.name)
        if entry is None or entry.error is not None:
            return False
        wanted = [entry.mask, entry.overlay]
        if with_instances and entry.source == "persam" and not entry.reviewed:
            wanted.append(entry.instances)
        return self.has_files(*wanted) and self.describes(photo, entry)

    def renamed(self, photo: Path, entry: ManifestEntry) -> ManifestEntry:
        """The entry for a photo that was moved or saved again."""
        return replace(entry, photo=relative_path(photo, self.path), digest=self._digest(photo))

    def open(self, subject: Subject, settings: dict[str, Any]) -> None:
        """Make the folder this run's; the settings come first, since by them the next call knows it."""
        with locked(self._manifest):
            self._clear_leftovers()
            self.write_settings(settings)
            subject.save(self.path / SUBJECT_NAME)

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
