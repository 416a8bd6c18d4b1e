"""Errors with one-line messages: a user's mistakes, work stopped by a signal, exhausted memory; words for messages."""

import os
import re
from collections.abc import Sequence

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NUMBER = re.compile(r"^\[Errno -?\d+\] ")


def printable(text: str) -> str:
    """Escape the characters that a terminal acts on: control characters, line breaks, bidirectional overrides.

    Messages quote file names and untrusted files, which may contain any of these.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has no message.

    Of a system's error, the number is left out: "No space left on device: 'a.png'".
    """
    return (_NUMBER.sub("", str(error)) or type(error).__name__).splitlines()[0]


def is_first_process() -> bool:
    """Return whether this is the first of the processes that a launcher started, which prints for all."""
    return os.environ.get("RANK", "0") == "0"


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was given, what is allowed, what to do. Command lines print
    it and exit with code 2; library callers catch it as the `ValueError` it is.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(str(message)))


class Stopped(Exception):
    """Work was stopped early by a signal; what was done is kept, and the message says where.

    Attributes:
        signal: the signal number; command lines exit with 128 + this.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


_OUT_OF_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "bad_alloc",
    "could not create a primitive",
    "can't start new thread",
)
"""Phrases in the plain RuntimeErrors of torch's CPU allocator, drivers, oneDNN and (the last one) Python."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error means that GPU or host memory ran out; torch's own is a RuntimeError too."""
    if isinstance(error, RuntimeError):
        return any(words in str(error).lower() for words in _OUT_OF_MEMORY)
    return isinstance(error, MemoryError)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 photo", "3 photos"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


NAMED = 10
"""Number of names that a message lists before it counts the rest."""


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
