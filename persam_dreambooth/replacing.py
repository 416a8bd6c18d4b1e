"""Write beside, then rename: a file, or a folder, is there whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished-"
"""How the names of what is being written begin; a process that is killed leaves such files behind."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write beside, then rename: yields a temporary path that becomes `path` when the block ends well.

    When the block raises, `path` is what it was before and the temporary file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=UNFINISHED, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o666 & ~_umask())  # mkstemp makes a private file; ours is as readable as any other
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_unfinished(path: Path) -> bool:
    """Whether a file is what a killed process left, or another one is writing right now."""
    return path.name.startswith(UNFINISHED)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder that is absent or empty: yields a temporary one, which becomes `path` as a whole."""
    path = path.resolve()  # of a link, the folder it leads to is the one that is empty
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as name:
        temporary = Path(name) / path.name  # inside, since temporary folders are private and this one is not to be
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.replace(path)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
