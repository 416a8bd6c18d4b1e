"""End a command before its n-th write, as a kill or a crash would, so that tests can inspect what is left."""

import os
import sys
from pathlib import Path

from persam_dreambooth.cli import main

WRITES = ("os.mkdir", "os.rename", "os.rmdir", "tempfile.mkstemp")
KILLED = 137


def killed_at(number, argv):
    """Run a command in a process that ends silently before its n-th write; return the exit code.

    To be called with the fixture `one_thread`.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = number

    def count(event, arguments):
        nonlocal left
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in WRITES:
            left -= 1
            if left < 0:
                os._exit(KILLED)

    silence = Path(os.devnull).open("w")  # noqa: SIM115 - stays open until the process ends
    sys.stdout = sys.stderr = silence
    sys.addaudithook(count)
    os._exit(main([str(word) for word in argv]))
