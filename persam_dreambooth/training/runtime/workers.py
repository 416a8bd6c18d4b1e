"""Data loader workers: make them ignore signals and end with the training; report their errors in one line."""

import atexit
import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime.process_state import SIGNALS

ENDED = ("exited unexpectedly", "killed by signal", "out of shared memory")
"""Phrases in torch's errors about workers that the operating system killed."""

Batch = TypeVar("Batch")
TOO_MANY_FILES = "too many open files; raise `ulimit -n`, or use fewer --dataloader_num_workers, or 0"


def begin_worker(_: int) -> None:
    """Ignore SIGTERM and SIGINT (a `worker_init_fn`), so that training can finish its step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_at_exit() -> None:
    """Kill remaining workers when Python exits; it would send SIGTERM, which they ignore, and wait forever."""
    atexit.unregister(_end)
    atexit.register(_end)


def _end() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises if a worker is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def watched(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the data loader's batches.

    Raises:
        UserError: a worker was killed from outside while it sent a batch.
    """
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        if "in DataLoader worker process" in str(error):
            raise  # the worker's own error; it is still alive
        raise _ended(f"no answer: {error}") from error


def _ended(reason: str) -> UserError:
    """Return the error for a worker that was killed from outside, and keep torch from raising it a second time."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return UserError(
        f"a process that reads photos was killed ({reason}), as happens when memory or shared memory runs out; "
        "use fewer --dataloader_num_workers, or 0"
    )


@contextmanager
def explained() -> Iterator[None]:
    """Report in one line why a worker ended.

    Raises:
        UserError: the worker's own error, which torch passes on with a traceback; or it was killed from outside.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise UserError(TOO_MANY_FILES) from error
    except RuntimeError as error:
        if os.strerror(errno.EMFILE) in str(error):  # torch's message for the same error
            raise UserError(TOO_MANY_FILES) from error
        if "DataLoader worker" not in str(error) or not any(words in str(error) for words in ENDED):
            raise
        raise _ended(str(error).splitlines()[0]) from error
    except UserError as error:
        words = str(error)
        if "in DataLoader worker process" not in words:
            raise
        # torch raised it again with the worker's traceback in the message, whose line breaks are escaped by now.
        raise UserError(words.rpartition(f"{UserError.__name__}: ")[2].removesuffix(r"\n")) from error


TENSORS = 12
"""Maximum number of tensors in a batch."""
PREFETCHED = 2
"""Prefetched batches per worker (torch's default)."""
PIPES = 8
"""Files per worker for its queues and its process."""
SPARE = 64
"""Files for everything else that a run opens: logs, a lock, checkpoints, sockets between processes."""


def check_open_files(workers: int) -> None:
    """Raise this process's limit on open files to what its workers need, as far as the system allows.

    With too few, torch loses batches and waits for them forever.

    Args:
        workers: `--dataloader_num_workers`.

    Raises:
        UserError: the system allows fewer.
    """
    if not workers or os.name != "posix":
        return
    import resource  # POSIX only

    needed = _open_now() + workers * (PIPES + PREFETCHED * TENSORS) + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"--dataloader_num_workers {workers} may take {needed} open files, and the system allows {hard} "
            "(`ulimit -Hn`); raise that, or use fewer workers, or 0"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _open_now() -> int:
    """Count the open files of this process; a guess on systems without /proc."""
    own = Path("/proc/self/fd")
    return len(list(own.iterdir())) if own.is_dir() else SPARE
