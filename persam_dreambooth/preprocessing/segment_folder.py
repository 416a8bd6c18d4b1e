"""Every photo of a folder, each once, however often this is interrupted, by one process or many."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import chain, takewhile
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import ManifestEntry, ManifestIndex
from persam_dreambooth.preprocessing.finder import Finder
from persam_dreambooth.preprocessing.job import SegmentationJob
from persam_dreambooth.preprocessing.loading import LoadedPhoto, load_photos
from persam_dreambooth.preprocessing.references import check_references
from persam_dreambooth.preprocessing.subject_folder import SubjectFolder

logger = logging.getLogger(__name__)


def segment_folder(
    job: SegmentationJob,
    processes: PartialState | None = None,
    again: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    find_with: Callable[[], Finder] | None = None,
) -> Iterator[ManifestEntry]:
    """Segment every photo of a folder, each once, however often this is interrupted and called again.

    Pixels of no more than a few batches are in memory at once, of the other photos their names.

    Args:
        job: what to do.
        processes: Accelerate's, all of which call this with the same job; each segments its
            share of the photos. None: this process does it all.
        again: an output folder of another run is taken over: masks that a person made or judged stay, the
            others are found anew.
        find_with: gives the finder of such a job, when there is something to find; None makes one.
        stopped: asked before each batch, of a single process only; once it says so the rest is left to a later call.

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
    digest = cache(files.digest)  # reviewed photos are compared twice, and all of them for each subject
    folders = [SubjectFolder(path, number, digest) for path in job.subjects()]
    for folder in folders:
        if again:
            folder.refuse_foreign_files()
        else:
            folder.refuse_other_runs(settings)
    make_finder = find_with or partial(Finder, job)
    finder = make_finder() if again else None  # what it refuses is said before anything is given up
    if finder and stopped():
        return _entries(folders)
    _meet(processes)
    before = [_begun(folder, job, again, photos) for folder in folders] if number == 0 else []  # as it was
    _meet(processes)
    known = [(folder, folder.known()) for folder in folders]
    waiting = [
        photo
        for photo in tqdm(photos[number::count], desc="Comparing", delay=2, disable=number > 0)
        if not all(folder.is_finished(photo, lines, job.all_instances) for folder, lines in known)
    ]
    anybody = any(gather_object([bool(waiting)])) if processes else bool(waiting)
    if finder is None and (waiting or (anybody and number == 0)):
        finder = make_finder()
    if finder and number == 0:
        for folder, subject in zip(folders, finder.subjects, strict=True):
            folder.open(subject, settings)
        if waiting and finder.caveat:
            _warn_once(finder.caveat)
    _meet(processes)  # from here on the folders are there and the journals grow
    if finder and waiting:
        with tqdm(total=len(waiting), desc="Segmenting", unit="photo", disable=number > 0) as progress:
            batches = load_photos(waiting, job.batch_size, job.dataloader_num_workers)
            _segment(job, finder, folders, takewhile(lambda _: not stopped(), batches), progress)
    _meet(processes)
    for folder, lines in zip(folders, before, strict=False):  # of the first process
        folder.close(photos, lines)
        files.note_unread(job.unread(), folder.path)
    _meet(processes)
    if not stopped() and all(entry.error is not None for entry in folders[0].entries()):
        reason = next(folders[0].entries()).error
        raise UserError(f"none of the {len(photos)} photos in {job.images} can be decoded: {reason}")
    return _entries(folders)


def _entries(folders: list[SubjectFolder]) -> Iterator[ManifestEntry]:
    return chain.from_iterable(folder.entries() for folder in folders)


def _begun(folder: SubjectFolder, job: SegmentationJob, again: bool, photos: Sequence[Path]) -> ManifestIndex:
    """Make a folder ready; returns its manifest as it was."""
    if again:
        before = folder.begin_again(job.settings(), job.subjects()[folder.path])
    else:
        folder.gather()
        before = folder.known()
    folder.keep_reviewed(photos)
    return before


@cache
def _warn_once(text: str) -> None:
    """Warn, of several folders for the first one."""
    logger.warning(text)


def _meet(processes: PartialState | None) -> None:
    """Wait until all processes are here."""
    if processes is not None:
        processes.wait_for_everyone()


def _segment(
    job: SegmentationJob,
    finder: Finder,
    folders: list[SubjectFolder],
    batches: Iterable[list[LoadedPhoto]],
    progress: tqdm,
) -> None:
    """Segment and write the photos that are left, a batch at a time."""
    for batch in batches:
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
