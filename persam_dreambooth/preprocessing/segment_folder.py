"""Segment one folder of photos or a tree of them; an interrupted run resumes with the photos that are left."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import ManifestEntry
from persam_dreambooth.preprocessing.finder import Finder
from persam_dreambooth.preprocessing.job import SegmentationJob
from persam_dreambooth.preprocessing.mask_store import MaskStore
from persam_dreambooth.preprocessing.mask_writer import MaskWriter
from persam_dreambooth.preprocessing.text_reference import with_reference

logger = logging.getLogger(__name__)


def segment_folder(
    job: SegmentationJob,
    processes: PartialState | None = None,
    again: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    finder: Finder | None = None,
) -> Iterator[ManifestEntry]:
    """Segment every photo of a folder once; if interrupted, call it again to segment the others.

    Only the pixels of a few batches are in memory at a time; of all other photos, only the names.

    Args:
        job: settings of the run.
        processes: Accelerate's state, if several processes call this with the same job; each segments its share of
            the photos. None: this process segments them all.
        again: take over the output folder of another run: keep masks that a person made or judged, replace the others.
        stopped: called before each batch; once it returns true, the other photos are left to a later call. For a
            single process only.
        finder: of this job or of another folder with the same settings; None makes one.

    Returns:
        The manifest's entries, read one by one, sorted by photo name; with several subjects, subject by subject. A
        photo that cannot be decoded has an entry with `error`; the other photos are segmented.

    Raises:
        UserError: no photo, none that can be decoded, an unusable reference or SAM, or an output folder that holds
            another run.
    """
    number, count = (processes.process_index, processes.num_processes) if processes else (0, 1)
    is_main = number == 0
    job = with_reference(job, [job], again)
    photos, unread, settings = job.photos(), job.unread(), job.settings()
    finder = finder or Finder(job)
    digest = cache(files.digest)  # reviewed photos are compared twice, and all photos once per subject
    more = (job.all_instances, job.draw == "confidence")
    stores = [MaskStore(path, settings, own, *more, digest) for path, own in job.subjects().items()]
    for store in stores:
        store.check(again)
    if again:
        finder.load()  # an unusable SAM is refused before any mask is given up
        if stopped():
            return _entries(stores)
    _wait(processes)  # every process has checked the folders before the first one changes them
    if is_main:
        for store in stores:
            store.begin(photos, again)
    _wait(processes)
    share = _left(stores, photos, processes)[number::count]
    subjects = finder.load() if share or again else []
    if is_main and subjects:
        for store, subject in zip(stores, subjects, strict=True):
            store.open(subject)
        if share and finder.caveat:
            _warn_once(finder.caveat)
    _wait(processes)  # now every folder exists, and every process may write its journal
    writers = [MaskWriter(store.path, number, *more) for store in stores]
    with tqdm(total=len(share), desc="Segmenting", unit="photo", disable=not (is_main and share)) as progress:
        for photo, found in finder.find(share, stopped):
            if photo.error is not None:
                progress.write(f"left out: {photo.error}", file=sys.stderr)
            for writer, mask in zip(writers, found, strict=True):
                writer.add(photo, mask)
            progress.update()
    _wait(processes)
    if is_main:
        for store in stores:
            store.finish(photos, unread)
    _wait(processes)
    if not stopped():
        _refuse_unreadable(stores[0], photos)
    return _entries(stores)


def _left(stores: Iterable[MaskStore], photos: Sequence[Path], processes: PartialState | None) -> list[Path]:
    """List the photos that lack a mask in some folder, or have changed since; each process compares its share."""
    number, count = (processes.process_index, processes.num_processes) if processes else (0, 1)
    mine = list(chain.from_iterable(store.unfinished(photos[number::count], quiet=number > 0) for store in stores))
    left = set(gather_object(mine) if processes else mine)
    return [photo for photo in photos if photo in left]


def _refuse_unreadable(store: MaskStore, photos: Sequence[Path]) -> None:
    """Raise a UserError if no photo could be decoded."""
    if all(entry.error is not None for entry in store.entries()):
        reason = next(store.entries()).error
        raise UserError(f"none of the {len(photos)} photos in {photos[0].parent} can be decoded: {reason}")


@cache
def _warn_once(text: str) -> None:
    """Warn; of several folders, only for the first."""
    logger.warning(text)


def _entries(stores: Iterable[MaskStore]) -> Iterator[ManifestEntry]:
    return chain.from_iterable(store.entries() for store in stores)


def _wait(processes: PartialState | None) -> None:
    """Wait until all processes are here."""
    if processes is not None:
        processes.wait_for_everyone()


def segment_albums(
    job: SegmentationJob, processes: PartialState | None = None, again: bool = False
) -> list[SegmentationJob]:
    """Segment the photos in a folder and its subfolders; load the SAM and personalize it only once.

    Args:
        job: settings of the run; `images` is the root folder.
        processes: see `segment_folder`.
        again: see `segment_folder`.

    Returns:
        The job of each folder.

    Raises:
        UserError: see `SegmentationJob.albums` and `segment_folder`.
    """
    job = with_reference(job, job.albums(), again)
    albums, finder = job.albums(), Finder(job)
    for album in albums:
        segment_folder(album, processes, again, finder=finder)
    return albums
