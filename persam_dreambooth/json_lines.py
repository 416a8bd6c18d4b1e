"""Files of JSON lines: one value per line, appended one at a time by writers that may be killed."""

import errno
import json
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from persam_dreambooth.errors import UserError

MAX_BYTES: Final = 2**24
"""Longest line that is read; a photo's has less than a thousand bytes."""


class Line(NamedTuple):
    """One line: its number from 1, its bytes as stored, with their line break, and its value."""

    number: int
    content: bytes
    value: Any


def read_lines(path: Path, start: int = 0) -> Iterator[Line]:
    """Yield the lines of a file that `append_line` writes; none if there is no file.

    A truncated last line (its writer was killed) is skipped.

    Args:
        path: the file.
        start: the byte offset of the first line, which counts as number 1.

    Raises:
        UserError: a line is not JSON, or too extreme for a parser.
    """
    damaged = None
    for number, content in numbered_lines(path, start):
        if damaged:
            raise damaged
        try:
            value = decode(content)
        except ValueError as error:
            damaged = UserError(f"line {number} of {path} is damaged; delete that line and run again")
            if not isinstance(error, json.JSONDecodeError):  # no truncation makes a line too extreme
                raise damaged from error
        else:
            yield Line(number, content, value)


def numbered_lines(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each line, whatever they hold; none if there is no file.

    Raises:
        UserError: a line is longer than `MAX_BYTES`.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        # Not `splitlines`, which also splits at characters that may occur in a caption, such as U+2028.
        for number, content in enumerate(iter(lambda: file.readline(MAX_BYTES + 1), b""), start=1):
            if len(content) > MAX_BYTES:
                raise UserError(f"line {number} of {path} has more than {MAX_BYTES} bytes; delete it or break it up")
            yield number, content


def parse(text: str) -> Any:
    """Parse untrusted JSON.

    Raises:
        ValueError: a JSONDecodeError if it is not JSON; it may also be nested too deeply, or hold a number with
            thousands of digits. The message is one line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error
    except ValueError as error:
        raise ValueError(str(error).partition(";")[0]) from error  # what follows is Python's advice to programmers


def decode(line: bytes) -> Any:
    """Parse a line, whether `encode` wrote it or not; errors: see `parse`."""
    return parse(line.decode("utf-8", "surrogateescape"))


def encode(value: object) -> bytes:
    """Serialize a value to one line; a file name that is not UTF-8 keeps its bytes."""
    return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")


def is_whole_line(line: bytes) -> bool:
    """Return whether this is the line of an object, perhaps without its line break."""
    try:
        return isinstance(decode(line), dict)
    except ValueError:
        return False


def append_line(path: Path, line: bytes) -> int:
    """Append a line after the last complete one; return its byte offset.

    Other writers must be kept out. To all readers the line is complete or absent.
    """
    is_new = not path.exists()
    with path.open("ab+", buffering=0) as file:  # unbuffered: after a failure, nothing may be written later
        end = file.seek(0, os.SEEK_END)
        tail = _unended(file, end)
        if tail and is_whole_line(tail):
            file.write(b"\n")
            end += 1
        elif tail:
            end -= len(tail)
            file.truncate(end)
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file.fileno())
        except OSError:
            path.unlink() if is_new else file.truncate(end)
            raise
    return end


def take_back_line(path: Path, start: int, line: bytes) -> bool:
    """Remove the last line if it is this one, at this byte offset, and return whether it was.

    Other writers must be kept out.
    """
    if not path.is_file():
        return False
    with path.open("rb+") as file:
        file.seek(start)
        is_last = file.read(len(line) + 1) == line
        if is_last:
            file.truncate(start)
    return is_last


def _unended(file: FileIO, end: int) -> bytes:
    """Return what follows the last line break."""
    tail, start = b"", end
    while start and b"\n" not in tail:
        start = max(0, start - 4096)
        file.seek(start)
        tail = file.read(end - start)
    return tail.rpartition(b"\n")[2]
