"""Read text from users, in flags or files: UTF-8 without NUL, from regular files, in bounded memory."""

import stat
from pathlib import Path
from typing import Final

from persam_dreambooth.errors import UserError

MAX_BYTES: Final = 4 * 2**20
"""Largest file that is read; more than a person writes."""


class _Unfit(ValueError):
    """A file that is not regular or too large; the message says which."""


def read_bounded(path: Path) -> bytes:
    """Read a regular file of at most 4 MiB, without ever blocking on a pipe or a device.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not a regular file, or too large; the message is a predicate, "is not a regular file".
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise _Unfit("is not a regular file")
    if state.st_size > MAX_BYTES:
        raise _Unfit(f"has {state.st_size} bytes, more than {MAX_BYTES}")
    return path.read_bytes()


def read_lines(path: Path, what: str) -> list[str]:
    """Read the lines of a file, including empty ones, without surrounding white space.

    Args:
        path: a regular file of at most 4 MiB, in UTF-8.
        what: the file's role, for messages: "prompts file".

    Raises:
        UserError: there is no such file, it is a folder, a device or a pipe, it is too large, or it is not UTF-8 text.
    """
    try:
        content = read_bounded(path)
    except _Unfit as error:
        raise UserError(f"the {what} {path} {error}; give a text file") from error
    except FileNotFoundError as error:
        raise UserError(f"no {what} at {path}; check the path") from error
    except OSError as error:
        raise UserError(f"the {what} {path} cannot be read ({error.strerror}); check the path") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"the {what} {path} is not UTF-8 text; save it as UTF-8") from error
    if "\0" in text:
        raise UserError(f"the {what} {path} holds NUL and is not UTF-8 text; save it as UTF-8")
    return [line.strip() for line in text.splitlines()]


def check_words(flag: str, *words: str | None) -> None:
    """Refuse text that no tokenizer can read and no file can hold.

    Bytes of a command line that are not UTF-8 reach Python as lone surrogates.

    Raises:
        UserError: some of it is not valid Unicode.
    """
    for word in words:
        try:
            (word or "").encode()
        except UnicodeEncodeError as error:
            raise UserError(f"--{flag} {word!a} is not UTF-8 text; write it in UTF-8") from error
