"""Segment one folder of photos, or a tree: plan what is left, decode, find, write masks; resumable at any point."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.listing import folders_below, where
from persam_dreambooth.photos.manifest import ManifestEntry, ManifestIndex
from persam_dreambooth.preprocessing.finder import Finder, LoadedPhoto, load_photos
from persam_dreambooth.preprocessing.job import SegmentationJob
from persam_dreambooth.preprocessing.mask_store import MaskStore
from persam_dreambooth.preprocessing.mask_writer import MaskWriter
from persam_dreambooth.preprocessing.references import ReferenceFiles, check_references

logger = logging.getLogger(__name__)


def segment_folder(
    job: SegmentationJob,
    processes: PartialState | None = None,
    again: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    find_with: Callable[[], Finder] | None = None,
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
        find_with: returns the finder of this job; called only if there is something to find. None makes one.

    Returns:
        The manifest's entries, read one by one, sorted by photo name; with several subjects, subject by subject. A
        photo that cannot be decoded has an entry with `error`; the other photos are segmented.

    Raises:
        UserError: no photo, none that can be decoded, an unusable reference or SAM, or an output folder that holds
            another run.
    """
    number, count = (processes.process_index, processes.num_processes) if processes else (0, 1)
    is_main = number == 0
    photos = job.photos()
    unread = job.unread()
    subjects = job.subjects()
    settings = job.settings()
    check_references(job.references)
    stores = _stores(subjects, settings, again)
    make_finder = find_with or partial(Finder, job)
    finder = make_finder() if again else None  # an unusable SAM is refused before any mask is given up
    if finder and stopped():
        return _entries(stores)
    _wait(processes)
    before = _begin(stores, subjects, settings, photos, again) if is_main else []
    _wait(processes)
    more = (job.all_instances, job.draw == "confidence")
    waiting = _unfinished(stores, photos[number::count], more, quiet=not is_main)
    anybody = any(gather_object([bool(waiting)])) if processes else bool(waiting)
    if finder is None and (waiting or (anybody and is_main)):
        finder = make_finder()
    if finder and is_main:
        for store, subject in zip(stores, finder.subjects, strict=True):
            store.open(subject, settings)
        if waiting and finder.caveat:
            _warn_once(finder.caveat)
    _wait(processes)  # now every folder exists, and every process may write its journal
    if finder and waiting:
        writers = [MaskWriter(path, number, *more) for path in subjects]
        batches = load_photos(waiting, job.batch_size, job.dataloader_num_workers)
        with tqdm(total=len(waiting), desc="Segmenting", unit="photo", disable=not is_main) as progress:
            _segment(takewhile(lambda _: not stopped(), batches), finder, writers, progress)
    _wait(processes)
    if is_main:
        for store, index in zip(stores, before, strict=True):
            store.finish(photos, index)
            files.note_unread(unread, store.path)
    _wait(processes)
    if not stopped():
        _refuse_unreadable(stores[0], photos)
    return _entries(stores)


def _stores(subjects: Iterable[Path], settings: dict[str, Any], again: bool) -> list[MaskStore]:
    """Return the store of each subject's output folder, or raise a UserError if this run must not write there."""
    digest = cache(files.digest)  # reviewed photos are compared twice, and all photos once per subject
    stores = [MaskStore(path, digest) for path in subjects]
    for store in stores:
        if again:
            store.refuse_foreign_files()
        else:
            store.refuse_other_runs(settings)
    return stores


def _begin(
    stores: Sequence[MaskStore],
    subjects: Mapping[Path, Sequence[ReferenceFiles]],
    settings: dict[str, Any],
    photos: Sequence[Path],
    again: bool,
) -> list[ManifestIndex]:
    """Resume or take over each folder; return the manifests as they were."""
    before = []
    for store in stores:
        before.append(store.take_over(settings, subjects[store.path]) if again else store.resume())
        store.keep_reviewed(photos)
    return before


def _unfinished(
    stores: Sequence[MaskStore], photos: Sequence[Path], more: tuple[bool, bool], quiet: bool
) -> list[Path]:
    """List the photos that lack a file in some folder, or have changed since; `more` are flags of `is_finished`."""
    indexes = [(store, store.index()) for store in stores]
    return [
        photo
        for photo in tqdm(photos, desc="Comparing", delay=2, disable=quiet)
        if not all(store.is_finished(photo, index.get(photo.name), *more) for store, index in indexes)
    ]


def _segment(
    batches: Iterable[list[LoadedPhoto]], finder: Finder, writers: Sequence[MaskWriter], progress: tqdm
) -> None:
    """Find the subjects in decoded photos and write their masks, one batch at a time."""
    for batch in batches:
        for photo in batch:
            if photo.error is not None:
                progress.write(f"left out: {photo.error}", file=sys.stderr)
                for writer in writers:
                    writer.add_unreadable(photo)
        readable = [photo for photo in batch if photo.error is None]
        for photo, subjects in zip(readable, finder.find(readable), strict=True):
            for writer, found in zip(writers, subjects, strict=True):
                writer.add(photo, found)
        progress.update(len(batch))


@cache
def _warn_once(text: str) -> None:
    """Warn; of several folders, only for the first."""
    logger.warning(text)


def _refuse_unreadable(store: MaskStore, photos: Sequence[Path]) -> None:
    """Raise a UserError if no photo could be decoded."""
    if all(entry.error is not None for entry in store.entries()):
        reason = next(store.entries()).error
        raise UserError(f"none of the {len(photos)} photos in {photos[0].parent} can be decoded: {reason}")


def _entries(stores: Iterable[MaskStore]) -> Iterator[ManifestEntry]:
    return chain.from_iterable(store.entries() for store in stores)


def _wait(processes: PartialState | None) -> None:
    """Wait until all processes are here."""
    if processes is not None:
        processes.wait_for_everyone()


def album_jobs(job: SegmentationJob) -> list[SegmentationJob]:
    """List one job per folder of photos: `job.images` itself and its subfolders.

    The outputs form the same tree below `job.output`; the review page, and training with kohya's folders, expect that.

    Raises:
        UserError: there is no such folder, or no photo in any.
    """
    if not job.images.is_dir():
        raise UserError(f"{job.images} is not a folder; give the folder that holds the photos")
    drawings = set(map(where, job.drawings))
    output = where(job.output)
    jobs = []
    for folder in folders_below(job.images):
        if where(folder) == output != where(job.images):
            continue
        photos = [path for path in files.list_photos(folder) if where(path) not in drawings]
        if any(not path.name.endswith(files.NO_PHOTOS) for path in photos):
            jobs.append(replace(job, images=folder, output=job.output / folder.relative_to(job.images)))
    if not jobs:
        raise UserError(f"no photo found in {job.images} or in folders in it; put photos there")
    return jobs


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
        UserError: see `album_jobs` and `segment_folder`.
    """
    jobs = album_jobs(job)
    find_with = cache(lambda: Finder(job))
    for album in jobs:
        segment_folder(album, processes, again, find_with=find_with)
    return jobs
