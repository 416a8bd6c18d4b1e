"""The data loader's workers: they outlive a signal, end with the training, and say what is wrong in one line."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.running.signals import SIGNALS


def begin_worker(_: int) -> None:
    """A data loader's `worker_init_fn`: its workers live until the training has finished its step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_at_exit() -> None:
    """Kill what is left of the workers when Python exits: it would ask by SIGTERM, and wait forever."""
    atexit.unregister(_end)
    atexit.register(_end)


def _end() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own raises where a worker is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def explained() -> Iterator[None]:
    """Say a worker's UserError, which torch hands on with the worker's traceback, in its own line."""
    try:
        yield
    except UserError as error:
        words = str(error).strip()
        if "\n" not in words:
            raise
        raise UserError(words.rpartition(f"{UserError.__name__}: ")[2]) from error
