"""The data loader's workers: they outlive a signal, end with the training, and say what is wrong in one line."""

import atexit
import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime.interrupts import SIGNALS

ENDED = ("exited unexpectedly", "killed by signal", "out of shared memory")
"""What torch says of workers that the system ended."""

Batch = TypeVar("Batch")
TOO_FEW_FILES = "too many open files; raise `ulimit -n`, or take fewer --dataloader_num_workers, or 0"


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


def watched(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The data loader's batches as they come.

    Raises:
        UserError: a worker was ended from outside while it handed a batch over.
    """
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        if "in DataLoader worker process" in str(error):
            raise  # the worker's own, which lives on
        raise _ended(f"no answer: {error}") from error


def _ended(reason: str) -> UserError:
    """The error that says that a worker was ended from outside, and torch kept from saying so once more."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return UserError(
        f"a process that reads photos was ended ({reason}), as systems do that run out of memory or shared memory; "
        "take fewer --dataloader_num_workers, or 0"
    )


@contextmanager
def explained() -> Iterator[None]:
    """Say in one line what ended a worker.

    Raises:
        UserError: the worker's own, which torch hands on with its traceback; or that it was ended from outside.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise UserError(TOO_FEW_FILES) from error
    except RuntimeError as error:
        if os.strerror(errno.EMFILE) in str(error):  # torch's own words for the same
            raise UserError(TOO_FEW_FILES) from error
        if "DataLoader worker" not in str(error) or not any(words in str(error) for words in ENDED):
            raise
        raise _ended(str(error).splitlines()[0]) from error
    except UserError as error:
        words = str(error)
        if "in DataLoader worker process" not in words:
            raise
        # torch has raised it anew, with the worker's traceback in its words, whose line ends are escaped by then.
        raise UserError(words.rpartition(f"{UserError.__name__}: ")[2].removesuffix(r"\n")) from error
