"""Every photo of a folder, each once, however often this is interrupted, by one process or many."""

import sys
from collections.abc import Iterator
from itertools import chain
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


def segment_folder(
    job: SegmentationJob, processes: PartialState | None = None, again: bool = False
) -> Iterator[ManifestEntry]:
    """Segment every photo of a folder, each once, however often this is interrupted and called again.

    Pixels of no more than a few batches are in memory at once, of the other photos their names.

    Args:
        job: what to do.
        processes: Accelerate's, all of which call this with the same job; each segments its
            share of the photos. None: this process does it all.
        again: an output folder of another run is taken over: masks that a person made or judged stay, the
            others are found anew.

    Returns:
        One entry a photo, sorted by name, as they are read from the manifest; those of several subjects
        one subject after the other. A photo that cannot be decoded has an entry with `error`; the others go on.

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
        if not again:
            folder.refuse_other_runs(settings)
    _meet(processes)
    for folder in folders:
        if number == 0 and again:
            folder.begin_again(settings)
        elif number == 0:
            folder.gather()
    _meet(processes)
    known = [(folder, folder.known()) for folder in folders]
    waiting = [
        photo
        for photo in tqdm(photos[number::count], desc="Comparing", delay=2, disable=number > 0)
        if not all(folder.is_finished(photo, lines, job.all_instances) for folder, lines in known)
    ]
    finder = Finder(job) if waiting else None
    if finder and number == 0:
        for folder, subject in zip(folders, finder.subjects, strict=True):
            folder.open(subject, settings)
    _meet(processes)  # from here on the folders are there and the journals grow
    if finder:
        with tqdm(total=len(waiting), desc="Segmenting", unit="photo", disable=number > 0) as progress:
            _segment(job, finder, folders, waiting, progress)
    _meet(processes)
    for folder, lines in known:
        if number == 0:
            folder.close(photos, lines)
    _meet(processes)
    if all(entry.error is not None for entry in folders[0].entries()):
        reason = next(folders[0].entries()).error
        raise UserError(f"none of the {len(photos)} photos in {job.images} can be decoded: {reason}")
    return chain.from_iterable(folder.entries() for folder in folders)


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
