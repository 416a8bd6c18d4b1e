"""Untrusted index files: JSON that may contain anything, and paths that may lead anywhere."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from persam_dreambooth.errors import UserError
from persam_dreambooth.json_lines import numbered_lines, parse

LONGEST = 300
"""Maximum number of characters of a name that a message quotes."""
TABLES = (".csv", ".parquet")
"""Other formats of an index, which Hugging Face's datasets library reads but this package does not."""


def index_file(folder: Path, name: str) -> Path:
    """Return the path of an index: `name` in a folder, its last part in the folder, or the folder if it is a file.

    Raises:
        UserError: there is none, or it is not a regular file.
    """
    candidates = [folder / name, folder / Path(name).name, folder]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        tables = [table for path in candidates[:2] for end in TABLES if (table := path.with_suffix(end)).is_file()]
        if tables:
            raise UserError(f"{folder} has a {tables[0].name}, which is not read here; write it as {Path(name).name}")
        raise UserError(f"{folder} has no {Path(name).name}; give the folder that holds it, or the file itself")
    return path


def read_json(path: Path, what: str) -> Any:
    """Read the value in a JSON file, of any type.

    Args:
        what: the file's kind, for the message: "COCO file".

    Raises:
        UserError: it is not JSON, or nested too deeply.
    """
    return _parsed(path.read_bytes(), f"{path} is not a {what}")


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number and value, of any type, of each line of a file; empty lines are skipped.

    Raises:
        UserError: see `read_json`; a line is too long.
    """
    for number, line in numbered_lines(path):
        if line.strip():
            yield number, _parsed(line, f"{path} is not a JSON Lines file", number)


def _parsed(content: bytes, problem: str, number: int | None = None) -> Any:
    """Parse a file's content, or its line of this number."""
    try:
        return parse(content.decode("utf-8-sig"))
    except ValueError as error:
        remedy = "write it as UTF-8" if isinstance(error, UnicodeDecodeError) else "export it again"
        reason = str(error) if number is None else f"line {number}: {str(error).replace('line 1 ', '')}"
        raise UserError(f"{problem} ({reason}); {remedy}") from error


def listed_file(name: str, folder: Path, *others: Path | None) -> Path:
    """Return the path of a file that an index names, with `..` removed.

    Links are followed, as in every folder; a path that leads out of the folders given by the user is refused.

    Args:
        name: the path in the index, relative or absolute.
        folder: the base of relative paths.
        others: further folders in which files may lie.

    Raises:
        UserError: it lies elsewhere, or there is no such file.
    """
    path = Path(os.path.normpath(folder / name))
    if not any(_absolute(path).is_relative_to(_absolute(root)) for root in (folder, *others) if root is not None):
        raise UserError(
            f"{name[:LONGEST]} lies outside {folder}; give its folder as --images or --masks if it is to be read"
        )
    try:
        there = path.is_file()
    except OSError as error:
        raise UserError(f"{str(path)[:LONGEST]} cannot be opened ({error.strerror})") from error
    if not there:
        raise UserError(f"{str(path)[:LONGEST]} does not exist; correct its path")
    return path


def _absolute(path: Path) -> Path:
    """Make a path absolute without following links, as `resolve` would."""
    return Path(os.path.normpath(path.absolute()))
