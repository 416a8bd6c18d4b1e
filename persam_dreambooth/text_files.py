"""Read text and YAML from users safely (regular files, UTF-8, bounded size), and check text and file names."""

import os
import re
import stat
from pathlib import Path
from typing import Any, Final

import yaml

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


def is_text(words: str) -> bool:
    """Return whether a string can be shown on a page or written to a UTF-8 file."""
    return readable(words) == words


def can_name_a_file(words: str) -> bool:
    """Return whether a string can be a path or an argument: no NUL, and no lone surrogates except escaped bytes."""
    try:
        return b"\0" not in os.fsencode(words)
    except UnicodeEncodeError:
        return False


def with_article(noun: str) -> str:
    """Return a noun with its indefinite article, chosen by its spelling: "a dog", "an umbrella", "a unicycle"."""
    return f"{'an' if re.match('[aeio]|u(?!ni)', noun, re.IGNORECASE) else 'a'} {noun}"


def check_caption_extension(ending: str) -> None:
    """Raise a UserError if a `--caption_extension` is not a file suffix."""
    if not re.fullmatch(r"\.[^/\\]+", ending):
        raise UserError(f"--caption_extension {ending} must be a dot and letters, such as .txt")


def readable(words: str) -> str:
    """Return a string that a page can show, with a question mark for each byte that is not UTF-8."""
    return words.encode("utf-8", "replace").decode("utf-8")


MAX_DEPTH = 20


class _Refused(ValueError):
    """The file is YAML, but uses something that is not allowed here."""


class _PlainLoader(yaml.SafeLoader):
    """`SafeLoader` without aliases, which let a few hundred bytes stand for gigabytes, and without deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one value with everything inside it."""
        if self.check_event(yaml.AliasEvent):
            raise _Refused("aliases such as *name are not allowed; write the value out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(f"its values are nested more than {MAX_DEPTH} deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_yaml(path: Path, what: str) -> Any:
    """Return the value of a YAML (or JSON) file: dictionaries, lists, strings, numbers, booleans, dates and None.

    Args:
        path: a regular file of at most 4 MiB, in UTF-8.
        what: the file's role, for messages: "config".

    Raises:
        UserError: there is no such file, it is a device or a pipe, it is too large, it is not YAML, or it has
            aliases or deep nesting.
    """
    try:
        return yaml.load(read_bounded(path).decode("utf-8"), Loader=_PlainLoader)
    except FileNotFoundError as error:
        raise UserError(f"no {what} at {path}; check the path") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"the {what} {path} is not readable YAML ({_reason(error)}); correct it") from error


def _reason(error: OSError | ValueError | yaml.YAMLError) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())
