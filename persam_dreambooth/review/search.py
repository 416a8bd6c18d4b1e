"""The search for the subject in all photos of an album, in the background; its masks appear in the manifest."""

import threading
from collections.abc import Callable

from persam_dreambooth.errors import UserError
from persam_dreambooth.preprocessing import SegmentationJob, segment_folder
from persam_dreambooth.preprocessing.mask_store import MaskStore
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.review.album import Album
from persam_dreambooth.review.jobs import Background


class Search(Background):
    """At most one search at a time over one album.

    Args:
        album: the photos and where their masks go.
        job: what to do with these references.
    """

    def __init__(self, album: Album, job: Callable[[Album, tuple[ReferenceFiles, ...]], SegmentationJob]) -> None:
        super().__init__()
        self._album, self._job, self._stop = album, job, threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped this search, which then ends soon, or the last one."""
        return self._stop.is_set()

    def start(self) -> None:
        """Begin; a search with the same references goes on where it stopped, another one begins anew.

        Masks that a person made or judged stay.

        Raises:
            UserError: a search is running, or nobody has drawn the subject yet.
        """
        self.begin(self._prepared, "the subject is being looked for already; wait until all photos were looked at")

    def stop(self) -> None:
        """End after the photo under way; what was found stays, and `start` goes on with the others."""
        if self.running:
            self._stop.set()

    def _prepared(self) -> Callable[[], None]:
        links = self._album.links_out()
        if links:
            raise UserError(
                f"{links[0]} leads out of the opened folder, and the page shows nothing from outside; open the folder "
                "that it leads to, take it out, or use `persam-dreambooth segment`"
            )
        references = self._album.references()
        if not references:
            raise UserError("draw the subject on one photo first; the others are found by it")
        job = self._job(self._album, references)
        self._stop.clear()
        return lambda: self._search(job)

    def _search(self, job: SegmentationJob) -> None:
        segment_folder(job, again=_is_another(job), stopped=self._stop.is_set)


def _is_another(job: SegmentationJob) -> bool:
    try:
        MaskStore(job.output).refuse_other_runs(job.settings())
    except UserError:
        return True
    return False
