"""Enough open files for the data loader's workers: each tensor of a batch that waits takes one, and pipes more."""

import os
from pathlib import Path

from persam_dreambooth.errors import UserError

TENSORS = 12
"""At most so many in a batch."""
PREFETCHED = 2
"""Batches that wait for each worker, as torch has it."""
PIPES = 8
"""Of a worker's queues, its process and its end."""
SPARE = 64
"""For whatever else a run opens: logs, a lock, checkpoints, a socket between processes."""


def check(workers: int) -> None:
    """Allow this process as many open files as its workers need, as far as the system lets it.

    Where there are too few torch loses batches, and waits for them without end.

    Args:
        workers: `--dataloader_num_workers`.

    Raises:
        UserError: the system allows fewer.
    """
    if not workers or os.name != "posix":
        return
    import resource  # which other systems lack

    needed = _open_now() + workers * (PIPES + PREFETCHED * TENSORS) + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"--dataloader_num_workers {workers} may take {needed} open files, and the system allows {hard} "
            "(`ulimit -Hn`); raise that, or take fewer workers, or 0"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _open_now() -> int:
    """Files that this process has open; a guess where the system does not tell."""
    own = Path("/proc/self/fd")
    return len(list(own.iterdir())) if own.is_dir() else SPARE
