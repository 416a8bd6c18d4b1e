"""One piece of work at a time, beside the page; what went wrong is kept until the page asks."""

import threading
from collections.abc import Callable

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.names import readable


class Background:
    """Work in a thread of its own.

    Attributes:
        error: of the last work, one line; None while it went well.
    """

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self.error: str | None = None

    @property
    def running(self) -> bool:
        """Whether something is being worked on."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, prepare: Callable[[], Callable[[], None]], busy: str) -> None:
        """Start to work; of two pages that ask at once only one is heard.

        Args:
            prepare: checks everything and returns the work.
            busy: what to say while other work goes on.

        Raises:
            UserError: it does, or what `prepare` raises.
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
        except Exception as error:  # whatever it is, the page must say it: nobody looks at this thread
            self.error = readable(" ".join(str(error).split())) or type(error).__name__
