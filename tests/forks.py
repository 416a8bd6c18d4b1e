"""Processes forked from an interpreter that has imported the package, which takes 8 s: each then starts in 0.1 s.

They are real processes, with signals, exit codes, locks and files of their own. Tests of how a process starts, by
scripts, launchers or a shell that sets limits, run a new interpreter instead.
"""

import atexit
import faulthandler
import multiprocessing
import os
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

from torch.distributed import TCPStore

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "persam_dreambooth.training.main", "persam_dreambooth.cli.train"])


class Fork:
    """A call of a function in a process of its own, with what tests use of `subprocess.Popen`.

    Args:
        run: a function of a module; what it returns, or gives to `sys.exit`, is the exit code.
        arguments: its arguments.
        environment: variables that it has besides this process's.
    """

    def __init__(self, run: Callable[..., object], *arguments: object, environment: Mapping[str, str] | None = None):
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        given = dict(os.environ) | dict(environment or {})
        self._process = CONTEXT.Process(target=_call, args=(self._files, Path.cwd(), given, run, arguments))
        self._process.start()
        self.pid, self.sentinel = self._process.pid, self._process.sentinel
        weakref.finalize(self, self._process.kill)  # does nothing to one that has ended

    @property
    def returncode(self) -> int | None:
        """The exit code, as a negative number the signal that ended the process, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Wait for the end, and return what was printed on stdout and stderr."""
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            raise TimeoutError(f"still running after {timeout} s")
        stdout, stderr = (file.read_bytes() for file in self._files)
        return stdout, stderr


def start_ranks(processes: int, run: Callable[..., object], *arguments: object, **environment: str) -> list[Fork]:
    """Call a function in N processes that find each other as those of `torchrun` do.

    As with torchrun, the store through which they meet outlives them.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared |= {"TORCHELASTIC_RESTART_COUNT": "0", "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks = [
        Fork(run, *arguments, environment=shared | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    for rank in ranks:
        rank.store = store  # which thus lives as long as they
    return ranks


def fork_ranks(processes: int, run: Callable[..., object], *arguments: object, **environment: str) -> str:
    """Call a function as `start_ranks` does, and return what was printed; the first failure ends all processes."""
    ranks = start_ranks(processes, run, *arguments, **environment)
    deadline = time.monotonic() + 300
    while running := [rank for rank in ranks if rank.poll() is None]:
        wait([rank.sentinel for rank in running], timeout=max(0.0, deadline - time.monotonic()))
        if any(rank.poll() for rank in ranks) or time.monotonic() > deadline:
            for rank in running:
                rank.send_signal(9)
    printed = [rank.communicate() for rank in ranks]
    errors = "\n".join(stderr.decode()[-6000:] for _, stderr in printed)
    assert [rank.returncode for rank in ranks] == [0] * processes, errors
    return "".join(stdout.decode() for stdout, _ in printed)


def _call(
    files: list[Path], folder: Path, environment: dict[str, str], run: Callable[..., object], arguments: tuple
) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    faulthandler.enable()
    multiprocessing.set_start_method(None, force=True)  # the platform's, as in a new interpreter, for loader workers
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        sys.exit(run(*arguments))
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends its processes without
