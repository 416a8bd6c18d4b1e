"""Segment every folder of photos in a folder tree, with one finder for all."""

from dataclasses import replace
from functools import cache

from accelerate import PartialState

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.listing import folders_below, where
from persam_dreambooth.preprocessing.finder import Finder
from persam_dreambooth.preprocessing.job import SegmentationJob
from persam_dreambooth.preprocessing.segment_folder import segment_folder


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
