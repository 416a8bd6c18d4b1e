"""A folder of photos and a reference in; masks, overlays, a contact sheet and a manifest out.

The one place where files and segmentation meet. The command line and the training script both call it.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import drawing, files
from persam_dreambooth.photos.manifest import (
    MANIFEST_NAME,
    ManifestEntry,
    append_entry,
    read_manifest,
    relative_path,
    write_manifest,
)
from persam_dreambooth.references import ReferenceFiles, check_references, read_references
from persam_dreambooth.segmentation import Method, PerSAM, Reference, Segmentation, Subject, pick_reference
from persam_dreambooth.segmentation.geometry import bounding_box

SETTINGS_NAME, SHEET_NAME, SUBJECT_NAME = "segmentation.json", "contact_sheet.png", "subject.safetensors"
SHEET_PHOTOS = 120
"""A contact sheet shows at most so many photos, those with the lowest scores."""


@dataclass(frozen=True)
class SegmentationJob:
    """What is to be segmented, by what, and where the result goes.

    Attributes:
        images: folder of photos.
        references: the one-shot pair, or several.
        output: folder for masks, overlays, contact sheet and manifest.
        sam: hub name, folder or `.pth` path.
        method: fidelity and techniques of PerSAM.
        device: None takes an accelerator where there is one.
        dtype: of the image encoder.
        batch_size: photos the encoder sees at once.
        pick_reference: of several references use the one that finds the others' subject best.
    """

    images: Path
    references: tuple[ReferenceFiles, ...]
    output: Path
    sam: str
    method: Method = field(default_factory=Method)
    device: str | None = None
    dtype: torch.dtype = torch.float32
    batch_size: int = 4
    pick_reference: bool = False


def segment_folder(job: SegmentationJob) -> list[ManifestEntry]:
    """Segment every photo of a folder, each once, however often this is interrupted and called again.

    Returns:
        One entry a photo, sorted by name, as the manifest has them. A photo that cannot be
        decoded has an entry with `error`; the others go on.

    Raises:
        UserError: no photo, a bad reference, no SAM, none of the photos readable, or an output
            folder that holds another run.
    """
    photos = files.find_photos(job.images, besides=tuple(path for one in job.references for path in one.drawings))
    check_references(job.references)
    settings = _settings(job)
    _refuse_other_runs(job.output, settings)
    manifest = job.output / MANIFEST_NAME
    before = read_manifest(manifest)
    done = _finished(job, photos, before)
    waiting = [photo for photo in photos if photo not in done]
    if waiting:
        persam = PerSAM.from_pretrained(job.sam, job.method, job.device, job.dtype)
        references = read_references(job.references, persam)
        subject = persam.personalize(_best(persam, references) if job.pick_reference else references)
        subject.save(job.output / SUBJECT_NAME)
        with files.replacing(job.output / SETTINGS_NAME) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        write_manifest(manifest, before)  # a killed run may have left half a line, which nothing must be appended to
        for photo, entry in _segment(job, persam, subject, references, waiting):
            append_entry(manifest, entry)
            done[photo] = entry
    entries = [done[photo] for photo in photos]
    write_manifest(manifest, entries)
    _remove_stale(job.output, before, entries)
    good = [entry for entry in entries if entry.error is None]
    if not good:
        raise UserError(f"none of the {len(entries)} photos in {job.images} can be decoded: {entries[0].error}")
    sheet = job.output / SHEET_NAME
    if entries != before or not sheet.exists():
        files.write_picture(_contact_sheet(job.output, good), sheet)
    return entries


def _best(persam: PerSAM, references: list[Reference]) -> Reference:
    scores = pick_reference(persam, references)
    return references[scores.index(max(scores))]


def _settings(job: SegmentationJob) -> dict[str, Any]:
    """What makes this run this run: with other settings the masks would be others."""
    return {
        "pick_reference": job.pick_reference,
        "references": [one.fingerprint() for one in job.references],
        "sam": job.sam,
        "dtype": str(job.dtype).removeprefix("torch."),
        "method": asdict(job.method),
    }


def _refuse_other_runs(output: Path, settings: dict[str, Any]) -> None:
    """Raise a UserError unless the output folder is empty, absent, or an earlier call's with these settings."""
    files.check_output_folder(output)
    path = output / SETTINGS_NAME
    if path.exists():
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged; choose another output folder or delete this one") from error
        changed = [key for key, value in settings.items() if before.get(key) != value]
        if changed:
            raise UserError(
                f"{output} holds another run ({', '.join(changed)} differ); "
                "choose another output folder or delete this one"
            )
    elif output.exists() and any(output.iterdir()):
        raise UserError(f"{output} exists and is no segmentation run's; choose another or an empty output folder")


def _finished(job: SegmentationJob, photos: list[Path], before: list[ManifestEntry]) -> dict[Path, ManifestEntry]:
    """Photos whose mask an earlier call made and which have not changed since."""
    by_photo = {entry.photo: entry for entry in before}
    finished = {}
    for photo in photos:
        entry = by_photo.get(relative_path(photo, job.output))
        if entry is None or entry.error is not None or entry.mask is None or entry.overlay is None:
            continue
        written = (job.output / entry.mask).exists() and (job.output / entry.overlay).exists()
        if written and entry.digest == files.digest(photo):
            finished[photo] = entry
    return finished


def _remove_stale(output: Path, before: list[ManifestEntry], entries: list[ManifestEntry]) -> None:
    """Remove masks and overlays of photos that left the folder or can no longer be read."""
    kept = {path for entry in entries for path in (entry.mask, entry.overlay)}
    for path in {path for entry in before for path in (entry.mask, entry.overlay)} - kept:
        (output / str(path)).unlink(missing_ok=True)


def _segment(
    job: SegmentationJob, persam: PerSAM, subject: Subject, references: list[Reference], waiting: list[Path]
) -> Iterator[tuple[Path, ManifestEntry]]:
    """Read, segment and write the photos that are left, a batch at a time."""
    own = {files.digest(one.image): read for one, read in zip(job.references, references, strict=True)}
    with tqdm(total=len(waiting), desc="Segmenting", unit="photo") as progress:
        for start in range(0, len(waiting), job.batch_size):
            batch = waiting[start : start + job.batch_size]
            digests = {photo: files.digest(photo) for photo in batch}
            readable: dict[Path, Image.Image] = {}
            for photo in batch:
                try:
                    readable[photo] = files.read_photo(photo)
                except UserError as error:
                    progress.write(f"left out: {error}", file=sys.stderr)
                    entry = ManifestEntry(relative_path(photo, job.output), digests[photo], error=str(error))
                    yield photo, entry
                    progress.update()
            to_find = [photo for photo in readable if digests[photo] not in own]
            segmentations = persam.segment([readable[photo] for photo in to_find], subject, job.batch_size)
            found = dict(zip(to_find, segmentations, strict=True))
            for photo, image in readable.items():
                yield photo, _write(job, photo, digests[photo], image, found.get(photo) or own[digests[photo]])
                progress.update()


def _write(
    job: SegmentationJob,
    photo: Path,
    digest: str,
    image: Image.Image,
    seen: Segmentation | Reference,
) -> ManifestEntry:
    """Save one photo's mask and overlay: what was found, or for a reference image the reference mask."""
    found = seen if isinstance(seen, Segmentation) else None
    mask = seen.mask if isinstance(seen, Segmentation) else seen.foreground
    points = [] if found is None else found.points.tolist()
    labels = [] if found is None else found.point_labels.tolist()
    box = bounding_box(torch.from_numpy(mask))
    mask_path, overlay_path = f"masks/{photo.stem}.png", f"overlays/{photo.stem}.jpg"
    files.write_mask(mask, job.output / mask_path)
    files.write_picture(drawing.overlay(image, mask, points, labels), job.output / overlay_path)
    return ManifestEntry(
        photo=relative_path(photo, job.output),
        digest=digest,
        width=image.width,
        height=image.height,
        mask=mask_path,
        mask_digest=files.digest(job.output / mask_path),
        overlay=overlay_path,
        source="reference" if found is None else "persam",
        score=None if found is None else round(found.score, 6),
        points=points,
        point_labels=labels,
        box=None if box is None else box.tolist(),
        warnings=[] if found is None else list(found.warnings),
    )


def _contact_sheet(output: Path, entries: list[ManifestEntry]) -> Image.Image:
    """Overlays with names and scores on one sheet; of a large album the least certain photos."""
    shown = entries
    if len(entries) > SHEET_PHOTOS:
        shown = sorted(entries, key=lambda entry: math.inf if entry.score is None else entry.score)[:SHEET_PHOTOS]
    pictures, captions = [], []
    for entry in shown:
        picture = files.read_picture(output / str(entry.overlay))
        picture.thumbnail((drawing.TILE, drawing.TILE))
        pictures.append(picture)
        quality = "reference" if entry.score is None else f"{entry.score:.2f}"
        captions.append(f"{Path(entry.photo).stem}  {quality}")
    return drawing.sheet(pictures, captions)
