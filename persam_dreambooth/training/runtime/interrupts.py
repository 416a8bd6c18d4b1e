"""Graceful shutdown on SIGTERM and SIGINT: the step is finished and a checkpoint written before the run ends."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_SIGNAL = 1.0
"""Seconds within which a repeated signal counts as the same one: a terminal's Ctrl-C reaches the whole process
group, and the launcher forwards it again."""


class StopSignal:
    """Context manager that records SIGTERM and SIGINT; a second signal ends the process in the usual way.

    Signals that the process ignored stay ignored. Outside the main thread, where Python does not allow
    handlers, nothing is recorded. An exception of a callback is recorded as well.

    Args:
        speaks: whether this process reports the signal on stderr and calls the callbacks.

    Attributes:
        number: the signal that was received, or None.
        error: the first exception that a callback raised, or None.
    """

    def __init__(self, speaks: bool = True) -> None:
        self.speaks = speaks
        self.number: int | None = None
        self.error: Exception | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._note) for number in wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: was not set from Python
        self._previous = {}

    @property
    def wanted(self) -> bool:
        """Whether this process wants the run to end."""
        return self.number is not None or self.error is not None

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call a callback, in the process that speaks only; after the first that raises, call none any more."""
        if self.speaks and self.error is None:
            try:
                callback(*arguments)
            except Exception as error:
                self.error = error

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._since = number, now
            if self.speaks:
                name = signal.Signals(number).name
                # os.write, since the handler may have interrupted a print, and stderr's buffer is not reentrant.
                os.write(2, f"\n{name}: stopping after this step; a second signal ends it at once\n".encode())
        elif now - self._since > SAME_SIGNAL:
            self.__exit__()
            signal.raise_signal(number)
