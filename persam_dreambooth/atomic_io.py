"""Write beside, then rename: a file, or a folder, is there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

UNFINISHED = ".unfinished-"
"""How the names of what is being written begin; a process that is killed leaves such files behind."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write beside, then rename: yields a temporary path that becomes `path` when the block ends well.

    When the block raises, `path` is what it was before and the temporary file is gone.

    Raises:
        OSError: the disk is full, or refuses; it names `path`.
    """
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=UNFINISHED, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _naming(path):
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes a private file; ours is as readable as any other
            yield temporary
            temporary.chmod(0o666 & ~_umask())  # again: safetensors puts a private file of its own in its place
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_unfinished(path: Path) -> bool:
    """Whether a file is what a killed process left, or another one is writing right now."""
    return path.name.startswith(UNFINISHED)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder that is absent or empty: yields a temporary one, which becomes `path` as a whole.

    What a call for the same folder left that was killed is removed first, unless that call still runs.
    """
    path = path.resolve()  # of a link, the folder it leads to is the one that is empty
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = path.parent / f"{UNFINISHED}{path.name}"
        with _alone(holder):
            temporary = holder / path.name  # inside, since the holder has a lock in it
            temporary.mkdir()
            yield temporary
            if path.exists():
                path.rmdir()
            temporary.replace(path)


def clear_unfinished(folder: Path) -> None:
    """Remove the files that killed writers left in a folder that nobody else writes to."""
    for left in folder.glob(f"{UNFINISHED}*"):
        if left.is_file() or left.is_symlink():
            left.unlink(missing_ok=True)


@contextmanager
def _alone(holder: Path) -> Iterator[None]:
    """An empty folder for a block, held by a lock that ends with the process; gone afterwards."""
    holder.mkdir(exist_ok=True)
    lock = FileLock(holder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FileExistsError(
            f"{holder} is being written by another call; wait for it, or choose another folder"
        ) from error
    try:
        for left in holder.iterdir():
            if left.name != ".lock":
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield
    finally:
        shutil.rmtree(holder, ignore_errors=True)  # while it is locked, so that nobody else is in it
        lock.release()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an OSError that names no file, as a full disk's does not, or only the temporary one, name this one."""
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or UNFINISHED in str(error.filename)):
            error.filename = str(path)
        raise


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
