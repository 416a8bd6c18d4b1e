"""Folders of photos below a folder, each segmented as an album of its own, by one finder."""

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
    """A job for each folder with photos in `job.images`, itself included; its output has the same place.

    That is where the review page looks for them, and training for those of kohya's folders.

    Raises:
        UserError: no such folder, or no photo in any.
    """
    if not job.images.is_dir():
        raise UserError(f"{job.images} is not a folder; give the folder that holds the photos")
    besides = {where(path) for reference in job.references for path in reference.drawings}
    output = where(job.output)
    jobs = []
    for folder in folders_below(job.images):
        if where(folder) == output != where(job.images):
            continue
        photos = [path for path in files.list_photos(folder) if where(path) not in besides]
        if any(not path.name.endswith(files.NO_PHOTOS) for path in photos):
            jobs.append(replace(job, images=folder, output=job.output / folder.relative_to(job.images)))
    if not jobs:
        raise UserError(f"no photo found in {job.images} or in folders in it; put photos there")
    return jobs


def segment_albums(
    job: SegmentationJob, processes: PartialState | None = None, again: bool = False
) -> list[SegmentationJob]:
    """Segment every photo in a folder and in the folders in it; the SAM is loaded and the subject learned once.

    Args:
        job, processes, again: as `segment_folder` takes them.

    Returns:
        The job of each folder; errors as `segment_folder`.
    """
    jobs = album_jobs(job)
    find_with = cache(lambda: Finder(job))
    for album in jobs:
        segment_folder(album, processes, again, find_with=find_with)
    return jobs
