"""The data loader's workers: they outlive a signal, end with the training, and say what is wrong in one line."""

import atexit
import errno
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.running.signals import SIGNALS

ENDED = ("exited unexpectedly", "killed by signal", "out of shared memory")
"""What torch says of workers that the system ended."""

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
        raise UserError(
            f"a process that reads photos was ended ({str(error).splitlines()[0]}), as systems do that run out of "
            "memory or shared memory; take fewer --dataloader_num_workers, or 0"
        ) from error
    except UserError as error:
        words = str(error)
        if "in DataLoader worker process" not in words:
            raise
        # torch has raised it anew, with the worker's traceback in its words, whose line ends are escaped by then.
        raise UserError(words.rpartition(f"{UserError.__name__}: ")[2].removesuffix(r"\n")) from error
