"""Every photo of a folder, each once, however often this is interrupted, by one process or many."""

import sys
from pathlib import Path

from accelerate import PartialState
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import ManifestEntry
from persam_dreambooth.preprocessing.finding import Finder
from persam_dreambooth.preprocessing.job import SegmentationJob
from persam_dreambooth.preprocessing.loading import load_photos
from persam_dreambooth.preprocessing.subject_folder import SubjectFolder
from persam_dreambooth.references import check_references


def segment_folder(job: SegmentationJob, processes: PartialState | None = None) -> list[ManifestEntry]:
    """Segment every photo of a folder, each once, however often this is interrupted and called again.

    Pixels of no more than a few batches are in memory at once, of the other photos their manifest lines.

    Args:
        job: what to do.
        processes: Accelerate's, all of which call this with the same job; each segments its
            share of the photos. None: this process does it all.

    Returns:
        One entry a photo, sorted by name, as the manifest has them; those of several subjects one
        subject after the other. A photo that cannot be decoded has an entry with `error`; the others go on.

    Raises:
        UserError: no photo, a bad reference, no SAM, none of the photos readable, or an output
            folder that holds another run.
    """
    number, count = (processes.process_index, processes.num_processes) if processes else (0, 1)
    photos = files.find_photos(job.images, besides=tuple(path for one in job.references for path in one.drawings))
    check_references(job.references)
    settings = job.settings()
    folders = [SubjectFolder(path, number) for path in job.subjects()]
    for folder in folders:
        folder.refuse_other_runs(settings)
    _meet(processes)
    before = [folder.gather() if number == 0 else [] for folder in folders]
    _meet(processes)
    mine = photos[number::count]
    finished = [folder.finished(tqdm(mine, desc="Comparing", delay=2), job.all_instances) for folder in folders]
    waiting = [photo for photo in mine if not all(photo in one for one in finished)]
    _meet(processes)  # from here on the journals grow
    if waiting:
        finder = Finder(job)
        for folder, subject in zip(folders, finder.subjects, strict=True):
            if number == 0:
                folder.open(subject, settings)
        with tqdm(total=len(waiting), desc="Segmenting", unit="photo", disable=number > 0) as progress:
            _segment(job, finder, folders, waiting, progress)
    _meet(processes)
    for folder, lines in zip(folders, before, strict=True):
        if number == 0:
            folder.close(photos, lines)
    _meet(processes)
    entries = [entry for folder in folders for entry in folder.entries()]
    if all(entry.error is not None for entry in entries):
        raise UserError(f"none of the {len(photos)} photos in {job.images} can be decoded: {entries[0].error}")
    return entries


def _meet(processes: PartialState | None) -> None:
    """Wait until all processes are here."""
    if processes is not None:
        processes.wait_for_everyone()


def _segment(
    job: SegmentationJob, finder: Finder, folders: list[SubjectFolder], waiting: list[Path], progress: tqdm
) -> None:
    """Read, segment and write the photos that are left, a batch at a time."""
    for batch in load_photos(waiting, job.batch_size, job.dataloader_num_workers):
        readable = [photo for photo in batch if photo.error is None]
        for photo in batch:
            if photo.error is not None:
                progress.write(f"left out: {photo.error}", file=sys.stderr)
                for folder in folders:
                    folder.add_unreadable(photo)
        for photo, found in zip(readable, finder.find(readable), strict=True):
            for folder, one in zip(folders, found, strict=True):
                folder.add(photo, one, job.all_instances)
        progress.update(len(batch))
