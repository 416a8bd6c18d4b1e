"""Raise the limit on open files for data loader workers: each tensor of a prefetched batch takes one, and
each worker's pipes take several."""

import os
from pathlib import Path

from persam_dreambooth.errors import UserError

TENSORS = 12
"""Maximum number of tensors in a batch."""
PREFETCHED = 2
"""Prefetched batches per worker (torch's default)."""
PIPES = 8
"""Files per worker for its queues and its process."""
SPARE = 64
"""Files for everything else that a run opens: logs, a lock, checkpoints, sockets between processes."""


def check(workers: int) -> None:
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
