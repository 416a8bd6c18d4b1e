"""Atomic writes: write a file or folder under a temporary name, then rename it, so that it is complete or absent."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

UNFINISHED = ".unfinished-"
"""Name prefix of files being written; a killed process leaves such files behind."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path that is renamed to `path` if the block succeeds.

    If the block raises, `path` is unchanged and the temporary file is removed.

    Raises:
        OSError: the disk is full or refuses the write; the error names `path`.
    """
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=UNFINISHED, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _naming(path):
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes a private file; follow the umask
            yield temporary
            temporary.chmod(0o666 & ~_umask())  # again: safetensors replaces it with a private file
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_unfinished(path: Path) -> bool:
    """Return whether a file is being written right now, or was left behind by a killed process."""
    return path.name.startswith(UNFINISHED)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Write a whole folder atomically: yield a temporary one that becomes `path`, which must be absent or empty.

    Leftovers of a killed call for the same folder are removed first, unless that call is still running.
    """
    path = path.resolve()  # if it is a link, its target is replaced
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = path.parent / f"{UNFINISHED}{path.name}"
        with _alone(holder):
            temporary = holder / path.name  # one level down, since the holder also contains the lock
            temporary.mkdir()
            yield temporary
            if path.exists():
                path.rmdir()
            temporary.replace(path)


def clear_unfinished(folder: Path) -> None:
    """Remove files left by killed writers in a folder that nobody else writes to."""
    for left in folder.glob(f"{UNFINISHED}*"):
        if left.is_file() or left.is_symlink():
            left.unlink(missing_ok=True)


@contextmanager
def _alone(holder: Path) -> Iterator[None]:
    """Hold an empty folder for the block, under a lock that ends with the process; remove it afterwards."""
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
        shutil.rmtree(holder, ignore_errors=True)  # while still locked, so that nobody else is using it
        lock.release()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put `path` into an OSError that names no file (as when the disk is full) or only the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or UNFINISHED in str(error.filename)):
            error.filename = str(path)
        raise


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
