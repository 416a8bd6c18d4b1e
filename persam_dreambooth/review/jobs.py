"""Background work, one job at a time; above all finding the subject in all photos of an album."""

import threading
from collections.abc import Callable

from persam_dreambooth.errors import UserError
from persam_dreambooth.preprocessing import SegmentationJob, segment_folder
from persam_dreambooth.preprocessing.mask_store import MaskStore
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.review.album import Album
from persam_dreambooth.text_files import readable


class Background:
    """Runs work in a thread of its own.

    Attributes:
        error: one line about the failure of the last job; None if there is none.
    """

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self.error: str | None = None

    @property
    def running(self) -> bool:
        """Whether a job is running."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, prepare: Callable[[], Callable[[], None]], busy: str) -> None:
        """Start a job; if two pages ask at once, only one succeeds.

        Args:
            prepare: checks everything and returns the work to do.
            busy: the message if another job is running.

        Raises:
            UserError: another job is running, or whatever `prepare` raises.
        """
        with self._starting:
            if self.running:
                raise UserError(busy)
            work, self.error = prepare(), None
            self._thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
            self._thread.start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever it is, the page must show it: nobody watches this thread
            self.error = readable(" ".join(str(error).split())) or type(error).__name__


class Search(Background):
    """Runs at most one search at a time over one album.

    Args:
        album: the photos and the folder of their masks.
        job: returns the job for these references.
    """

    def __init__(self, album: Album, job: Callable[[Album, tuple[ReferenceFiles, ...]], SegmentationJob]) -> None:
        super().__init__()
        self._album, self._job, self._stop = album, job, threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether the current search was told to stop, or the last one was stopped."""
        return self._stop.is_set()

    def start(self) -> None:
        """Start; a search with the same references resumes where it stopped, another one starts from scratch.

        Masks that a person made or judged stay.

        Raises:
            UserError: a search is running, or the subject has not been drawn yet.
        """
        self.begin(self._prepared, "a search is already running; wait until it has finished")

    def stop(self) -> None:
        """Stop after the current photo; masks found so far stay, and `start` continues with the other photos."""
        if self.running:
            self._stop.set()

    def _prepared(self) -> Callable[[], None]:
        links = self._album.links_out()
        if links:
            raise UserError(
                f"{links[0]} is a link out of the opened folder, and the page shows nothing from outside; open the "
                "folder that it leads to, remove the link, or use `persam-dreambooth segment`"
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
        MaskStore(job.output, job.settings()).check()
    except UserError:
        return True
    return False
