"""SIGTERM and SIGINT as a wish: the step is finished and a checkpoint written before the run ends."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_SIGNAL = 1.0
"""Seconds in which a repeated signal is still the same one: a terminal's Ctrl-C reaches the whole process
group, and the launcher passes it on once more."""


class StopSignal:
    """Inside this context SIGTERM and SIGINT are noted; a second one ends the process as it would have before.

    Signals that the process ignored stay ignored. Outside of the main thread, where Python takes no
    handlers, nothing is noted. What a callback raises is noted as well.

    Args:
        speaks: whether this process says so on stderr, and calls callbacks.

    Attributes:
        number: the signal that came, or None.
        error: what a callback raised first, or None.
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
            signal.signal(number, handler or signal.SIG_DFL)  # None: not Python's to restore
        self._previous = {}

    @property
    def wanted(self) -> bool:
        """Whether this process wants the run to end."""
        return self.number is not None or self.error is not None

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call a callback in the process that speaks; from the first one that raises on, no more of them."""
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
                # os.write: a handler may have interrupted a print, and stderr's own buffer takes no second one.
                os.write(2, f"\n{name}: stopping after this step; once more ends it at once\n".encode())
        elif now - self._since > SAME_SIGNAL:
            self.__exit__()
            signal.raise_signal(number)
