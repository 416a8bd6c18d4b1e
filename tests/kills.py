"""Kill a command: at every file operation, without ending this process, or a process of its own at a given moment."""

import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from persam_dreambooth.atomic_io import UNFINISHED

CHANGES = ("os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TEMPORARY = re.compile(rf"(?<={re.escape(UNFINISHED)})[a-z0-9_]{{8}}(\.\w+)?$")
"""The random part of the name of a file that is being written."""

_watch: list[Callable[[str, str], None]] = []
"""The function that is called before each file operation; none outside `watching` and during the call."""


def _audit(event: str, args: tuple) -> None:
    if not _watch or not args or not isinstance(args[0], str | bytes | os.PathLike):
        return
    if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITES):
        watch = _watch.pop()  # it may itself copy files
        try:
            watch(event, os.fsdecode(args[0]))
        finally:
            _watch.append(watch)


sys.addaudithook(_audit)  # cannot be removed


@contextmanager
def watching(watch: Callable[[str, str], None]) -> Iterator[None]:
    """Call `watch` with the name and path of each operation on files in the block, before the operation.

    The operations are those that Python reports to audit hooks: files opened for writing, renamed or removed, folders
    made or removed. Writes inside native libraries fall between two of them. An exception from `watch` prevents the
    operation.
    """
    _watch.append(watch)
    try:
        yield
    finally:
        _watch.clear()


def states_of_kills(work: Callable[[], object], folder: Path, copies: Path) -> list[Path]:
    """Do some work, and copy a folder as a kill before each file operation would leave it.

    Args:
        work: changes the folder.
        folder: may be absent at first.
        copies: an absent folder, outside `folder`.

    Returns:
        Copies of the distinct states, in order, and of the finished folder; a copy is absent where the folder is.
        Files that are being written make no other state, since the next run removes them: the last of the kills that
        differ in these only is kept, in which such a file is complete but for its name.
    """
    folder, states = folder.absolute(), dict[tuple, Path]()

    def keep(event: str, path: str) -> None:
        if Path(path).is_absolute() and not Path(path).is_relative_to(folder):
            return  # paths relative to an open folder are taken for paths in `folder`
        files = {name: digest for name, digest in tree(folder).items() if not TEMPORARY.search(name)}
        state = (folder.exists(), frozenset(files.items()))
        states.setdefault(state, copies / str(len(states)))
        put_back(folder, states[state])

    with watching(keep):
        work()
    shutil.copytree(folder, copies / "finished")
    return [*states.values(), copies / "finished"]


def put_back(state: Path, folder: Path) -> None:
    """Replace a folder by a copy of one of its states."""
    shutil.rmtree(folder, ignore_errors=True)
    if state.exists():
        shutil.copytree(state, folder)


def tree(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, and "" for every folder, by path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def signal_when_exists(process, folder: Path, pattern: str, number: int, codes: tuple[int, ...] = ()) -> list[str]:
    """Send a signal to a started process as soon as a file or folder exists; return what it printed.

    Args:
        process: a `Popen` with pipes for stdout and stderr, or a `Fork`.
        folder: where the process writes; it may be absent.
        pattern: the file's path below it, as for `Path.glob`.
        number: the signal.
        codes: exit codes to expect; those of a process that the signal ends if empty.
    """
    deadline = time.monotonic() + 120
    while not any(folder.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    process.send_signal(number)
    printed = [text.decode() for text in process.communicate(timeout=120)]
    assert process.returncode in (codes or (-number, 128 + number)) and folder.exists(), printed
    return printed
