"""Write the mask, overlay and manifest entry of one photo, in an order that survives being killed; undo a decision."""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.photos import files, rendering, video_io
from persam_dreambooth.photos.files import write_bytes
from persam_dreambooth.photos.listing import where
from persam_dreambooth.photos.manifest import (
    MANIFEST_NAME,
    OWN_FILES,
    ManifestEntry,
    ManifestIndex,
    append_entry,
    format_line,
    locked,
    manifest_line,
    parse_line,
    relative_path,
)
from persam_dreambooth.preprocessing.finder import LoadedPhoto
from persam_dreambooth.preprocessing.found import Found
from persam_dreambooth.segmentation.frame import bounding_box

CONFIDENCE = "confidence"
"""Folder of the pictures of confidence maps."""


class MaskWriter:
    """Write the masks of one subject that one process of a run finds.

    Args:
        folder: the subject's output folder.
        process: process number; each process but the first writes its own journal, which `MaskStore` later merges
            into the manifest.
        with_instances: also save a label image that numbers the instances of each photo.
        with_confidence: also save a picture of each photo's location confidence map.
    """

    def __init__(
        self, folder: Path, process: int = 0, with_instances: bool = False, with_confidence: bool = False
    ) -> None:
        self.folder, self._with_instances, self._with_confidence = folder, with_instances, with_confidence
        self._manifest = folder / MANIFEST_NAME
        self._journal = self._manifest.with_suffix(f".{process}.jsonl") if process else self._manifest
        self._manifest_state: tuple[int, int, int] | None = None
        self._reviewed = set[str]()

    def add(self, photo: LoadedPhoto, found: Found | None) -> None:
        """Save the mask, overlay and entry of a photo, unless a person has made or judged its mask meanwhile.

        The entry is written after the old files are removed and before the new ones are there. A run killed anywhere
        leaves some file missing, so the next run redoes the photo, and no mask is ever paired with another's entry.

        Args:
            photo: a photo of the run.
            found: its mask; None if the photo cannot be decoded: its entry says why.
        """
        entry, contents = _result(self.folder, photo, found, self._with_instances, self._with_confidence)
        with locked(self._manifest):
            if found is not None and self._was_reviewed(photo.path):
                return
            if found is not None and found.instances:  # a reference's mask may be the user's own file: never remove it
                remove_files(self.folder, entry)
            self._append(entry)
            _write(contents)

    def _append(self, entry: ManifestEntry) -> None:
        self._read_reviews()  # before the new state of the manifest hides what others wrote
        append_entry(self._journal, entry)
        self._manifest_state = files.file_state(self._manifest)

    def _was_reviewed(self, photo: Path) -> bool:
        """Return whether a person has made or judged the photo's mask; to be called in a `locked` block."""
        self._read_reviews()
        return photo.stem in self._reviewed

    def _read_reviews(self) -> None:
        """Read the manifest again if another process has written to it."""
        state = files.file_state(self._manifest)
        if state != self._manifest_state:
            self._reviewed = {Path(entry.photo).stem for entry in ManifestIndex(self._manifest) if entry.reviewed}
            self._manifest_state = state


def draw(folder: Path, image: Image.Image, mask: NDArray[np.bool_], entry: ManifestEntry) -> ManifestEntry:
    """Save a photo's mask and overlay.

    Args:
        folder: the subject's output folder.
        image: the upright photo, 8-bit RGB.
        mask: (H, W) bool, of the photo's size.
        entry: the photo's entry; `photo`, `points` and `point_labels` are read.

    Returns:
        The entry with every field that follows from the mask: sizes, file names, mask digest and box.
    """
    entry, contents = _drawn(folder, image, mask, entry)
    _write(contents)
    return entry


def remove_files(folder: Path, entry: ManifestEntry, keep: frozenset[str] = frozenset()) -> None:
    """Remove the mask, overlay and instances that an entry names, and the picture of its confidence map.

    Args:
        folder: the subject's output folder.
        entry: an entry of its manifest.
        keep: paths of files to keep, as `where` returns them.
    """
    for name in (entry.mask, entry.overlay, entry.instances):
        if name is not None and where(folder / name) not in keep:
            (folder / name).unlink(missing_ok=True)
    if not (folder / CONFIDENCE).is_symlink():
        confidence_path(folder, entry).unlink(missing_ok=True)


def confidence_path(folder: Path, entry: ManifestEntry) -> Path:
    """Return the file for the picture of a photo's confidence map, whether it exists or not."""
    return folder / CONFIDENCE / f"{Path(entry.photo).stem}.jpg"


def _result(
    folder: Path, photo: LoadedPhoto, found: Found | None, with_instances: bool, with_confidence: bool
) -> tuple[ManifestEntry, dict[Path, bytes]]:
    """Return the photo's entry and the contents of its files, in the order in which they are written."""
    entry = ManifestEntry(relative_path(photo.path, folder), photo.digest, error=photo.error)
    if photo.image is None or found is None:
        return entry, {}
    presence, instances = found.presence, found.instances
    entry = replace(
        entry,
        source=found.source,
        score=round(max(instance.score for instance in instances), 6) if instances else None,
        presence=presence.verdict if presence else None,
        probability=round(presence.probability, 6) if presence else None,
        reason=presence.reason if presence else None,
        instances=OWN_FILES["instances"].format(photo.path.stem) if with_instances and instances else None,
        points=[point for instance in instances for point in instance.points.tolist()],
        point_labels=[label for instance in instances for label in instance.point_labels.tolist()],
        warnings=[warning for instance in instances for warning in instance.warnings],
    )
    entry, contents = _drawn(folder, photo.image, found.mask, entry)
    if entry.instances:
        numbered = files.encoded(video_io.label_picture(_label_instances(found)), "PNG")
        contents = {folder / entry.instances: numbered} | contents
    if with_confidence and instances:
        best = instances[0]
        picture = rendering.heat_map(
            photo.image, best.confidence_map, best.points.tolist(), best.point_labels.tolist()
        )
        contents[confidence_path(folder, entry)] = files.encoded(picture, "JPEG")
    return entry, contents


def _drawn(
    folder: Path, image: Image.Image, mask: NDArray[np.bool_], entry: ManifestEntry
) -> tuple[ManifestEntry, dict[Path, bytes]]:
    """Do what `draw` does, but return the contents of the files, the mask's first, instead of writing them."""
    name, overlay = (OWN_FILES[key].format(Path(entry.photo).stem) for key in ("mask", "overlay"))
    box = bounding_box(torch.from_numpy(mask))
    mask_bytes = files.encoded(Image.fromarray(mask.astype(np.uint8) * 255), "PNG")
    overlay_bytes = files.encoded(rendering.overlay(image, mask, entry.points, entry.point_labels), "JPEG")
    entry = replace(
        entry,
        width=image.width,
        height=image.height,
        mask=name,
        mask_digest=sha256(mask_bytes).hexdigest(),
        overlay=overlay,
        box=None if box is None else box.tolist(),
    )
    return entry, {folder / name: mask_bytes, folder / overlay: overlay_bytes}


def _label_instances(found: Found) -> NDArray[np.uint8]:
    """Number the instances 1, 2, ... in one (H, W) uint8 label image; 0 is background."""
    labels = np.zeros(found.mask.shape, np.uint8)
    for number, instance in enumerate(found.instances, start=1):
        labels = np.maximum(labels, instance.mask * np.uint8(number))
    return labels


def _write(contents: Mapping[Path, bytes]) -> None:
    for path, content in contents.items():
        files.write_bytes(content, path)


JOURNAL_NAME = ".decision.json"
"""Holds a photo's files and line as they were before the decision that is being written."""


def files_of(output: Path, stem: str) -> list[Path]:
    """Return the paths of a photo's mask, overlay and instances in an output folder, whether they exist or not."""
    return [output / form.format(stem) for form in OWN_FILES.values()]


def remember(output: Path, stem: str, line: bytes | None, contents: Mapping[Path, bytes | None]) -> None:
    """Save a photo's files and line in the journal; to be called in a `locked` block, before anything is changed.

    Args:
        output: the subject's output folder.
        stem: stem of the photo's file name.
        line: its newest manifest line, as `format_line` writes it; None if it has none.
        contents: the contents of `files_of`; None for an absent file.
    """
    kept = {
        "stem": stem,
        "line": _as_text(line),
        "files": [_as_text(contents[path]) for path in files_of(output, stem)],
    }
    with replacing(output / JOURNAL_NAME) as temporary:
        temporary.write_text(json.dumps(kept), encoding="utf-8")


def forget(output: Path) -> None:
    """Remove the journal, because the decision is complete or undone."""
    (output / JOURNAL_NAME).unlink(missing_ok=True)


def roll_back(output: Path) -> None:
    """Undo a decision that was interrupted before its line was written; to be called in a `locked` block."""
    journal = output / JOURNAL_NAME
    if not journal.is_file() or journal.is_symlink():
        return
    try:
        kept = json.loads(journal.read_text(encoding="utf-8"))
        stem, line = kept["stem"], _as_bytes(kept["line"])
        contents = [_as_bytes(text) for text in kept["files"]]
        is_ours = Path(stem).name == stem and "\0" not in stem and len(contents) == len(OWN_FILES)
    except (KeyError, TypeError, ValueError, RecursionError):
        is_ours = False  # a journal is written atomically, so this is another program's file
    if is_ours and _newest(output, stem) == line:
        restore(dict(zip(files_of(output, stem), contents, strict=True)))
    forget(output)


def restore(contents: Mapping[Path, bytes | None]) -> None:
    """Write these contents to their files; None removes the file."""
    for path, content in contents.items():
        if content is None and path.is_file():
            path.unlink(missing_ok=True)
        elif content is None:
            continue
        elif not path.is_file() or path.read_bytes() != content:
            write_bytes(content, path)


def _newest(output: Path, stem: str) -> bytes | None:
    line = manifest_line(output / MANIFEST_NAME, f"{stem}.png")
    return None if line is None else format_line(parse_line(line))


def _as_text(content: bytes | None) -> str | None:
    return None if content is None else b64encode(content).decode("ascii")


def _as_bytes(content: str | None) -> bytes | None:
    return None if content is None else b64decode(content, validate=True)
