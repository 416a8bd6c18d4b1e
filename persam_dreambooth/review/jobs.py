"""Background work, one job at a time; an error is kept until the page asks for it."""

import threading
from collections.abc import Callable

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.names import readable


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
