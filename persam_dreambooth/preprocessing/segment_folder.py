"""Every photo of a folder, each once, however often this is interrupted, by one process or many."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import chain, takewhile
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import ManifestEntry, ManifestIndex
from persam_dreambooth.preprocessing.contact_sheet import remove_sheet
from persam_dreambooth.preprocessing.finder import Finder
from persam_dreambooth.preprocessing.job import SegmentationJob
from persam_dreambooth.preprocessing.loading import LoadedPhoto, load_photos
from persam_dreambooth.preprocessing.mask_store import MaskStore
from persam_dreambooth.preprocessing.references import check_references
from persam_dreambooth.preprocessing.resume import finish, resume, take_over

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
        again: take over an output folder of another run: masks that a person made or judged stay, the others are
            found again.
        stopped: asked before each batch, of a single process only; once it returns true the rest is left to a later
            call.
        find_with: returns the finder for this job, called when there is something to find; None makes one.

    Returns:
        One entry a photo, sorted by name, as they are read from the manifest; those of several subjects
        one subject after the other. A photo that cannot be decoded has an entry with `error`; the others go on.

    Raises:
        UserError: no photo, a bad reference, no SAM, none of the photos readable, or an output
            folder that holds another run.
    """
    number, count = (processes.process_index, processes.num_processes) if processes else (0, 1)
    photos = files.find_photos(job.images, besides=tuple(path for given in job.references for path in given.drawings))
    check_references(job.references)
    settings = job.settings()
    digest = cache(files.digest)  # reviewed photos are compared twice, and all of them for each subject
    stores = {path: MaskStore(path, number, digest) for path in job.subjects()}
    for store in stores.values():
        if again:
            store.refuse_foreign_files()
        else:
            store.refuse_other_runs(settings)
    make_finder = find_with or partial(Finder, job)
    finder = make_finder() if again else None  # what it refuses is said before anything is given up
    if finder and stopped():
        return _entries(stores)
    _meet(processes)
    before: list[ManifestIndex] = []
    if number == 0:
        before = [
            take_over(store, settings, job.subjects()[path], photos) if again else resume(store, photos)
            for path, store in stores.items()
        ]
    _meet(processes)
    known = [(store, store.known()) for store in stores.values()]
    waiting = [
        photo
        for photo in tqdm(photos[number::count], desc="Comparing", delay=2, disable=number > 0)
        if not all(store.is_finished(photo, lines, job.all_instances) for store, lines in known)
    ]
    anybody = any(gather_object([bool(waiting)])) if processes else bool(waiting)
    if finder is None and (waiting or (anybody and number == 0)):
        finder = make_finder()
    if finder and number == 0:
        for store, subject in zip(stores.values(), finder.subjects, strict=True):
            remove_sheet(store.path)  # of what was there before
            store.open(subject, settings)
        if waiting and finder.caveat:
            _warn_once(finder.caveat)
    _meet(processes)  # from here on the folders are there and the journals grow
    if finder and waiting:
        with tqdm(total=len(waiting), desc="Segmenting", unit="photo", disable=number > 0) as progress:
            batches = load_photos(waiting, job.batch_size, job.dataloader_num_workers)
            undisturbed = takewhile(lambda _: not stopped(), batches)
            _segment(finder, list(stores.values()), undisturbed, job.all_instances, progress)
    _meet(processes)
    for store, lines in zip(stores.values(), before, strict=False):  # of the first process
        finish(store, photos, lines)
        files.note_unread(job.unread(), store.path)
    _meet(processes)
    if not stopped():
        _refuse_unreadable(next(iter(stores.values())), photos)
    return _entries(stores)


def _entries(stores: Mapping[Path, MaskStore]) -> Iterator[ManifestEntry]:
    return chain.from_iterable(store.entries() for store in stores.values())


def _refuse_unreadable(store: MaskStore, photos: Sequence[Path]) -> None:
    """Raise a UserError if no photo could be decoded."""
    if all(entry.error is not None for entry in store.entries()):
        reason = next(store.entries()).error
        raise UserError(f"none of the {len(photos)} photos in {photos[0].parent} can be decoded: {reason}")


@cache
def _warn_once(text: str) -> None:
    """Warn, of several folders for the first one."""
    logger.warning(text)


def _meet(processes: PartialState | None) -> None:
    """Wait until all processes are here."""
    if processes is not None:
        processes.wait_for_everyone()


def _segment(
    finder: Finder,
    stores: Sequence[MaskStore],
    batches: Iterable[list[LoadedPhoto]],
    with_instances: bool,
    progress: tqdm,
) -> None:
    """Segment and write the photos that are left, a batch at a time."""
    for batch in batches:
        readable = [photo for photo in batch if photo.error is None]
        for photo in batch:
            if photo.error is not None:
                progress.write(f"left out: {photo.error}", file=sys.stderr)
                for store in stores:
                    store.add_unreadable(photo)
        for photo, subjects in zip(readable, finder.find(readable), strict=True):
            for store, found in zip(stores, subjects, strict=True):
                store.add(photo, found, with_instances)
        progress.update(len(batch))
