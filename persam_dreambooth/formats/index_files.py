"""Index files of strangers: JSON that may hold anything, and paths that may lead anywhere."""

import json
import os
from pathlib import Path
from typing import Any

from persam_dreambooth.errors import UserError

LONGEST = 300
"""Characters of a name that a message quotes."""
TABLES = (".csv", ".parquet")
"""Other ways of writing an index, which its library reads and we do not."""


def index_file(folder: Path, name: str) -> Path:
    """The index in a folder, where it stands there or one deeper, or the very file that was given.

    Raises:
        UserError: there is none, or it is no regular file.
    """
    candidates = [folder / name, folder / Path(name).name, folder]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        tables = [one.name for here in candidates[:2] for end in TABLES if (one := here.with_suffix(end)).is_file()]
        if tables:
            raise UserError(f"{folder} has a {tables[0]}, which is not read here; write it as {Path(name).name}")
        raise UserError(f"{folder} has no {Path(name).name}; give the folder that holds it, or the file itself")
    return path


def read_json(path: Path, what: str) -> Any:
    """The value in a JSON file, of any type.

    Args:
        what: the file's kind, for the message: "COCO file".

    Raises:
        UserError: it is no JSON, or nested too deeply.
    """
    return _parse(path, _text(path, what), what)


def read_json_lines(path: Path) -> list[Any]:
    """The values in a file of one JSON value a line, of any type; empty lines are passed over.

    Raises:
        UserError: as `read_json`.
    """
    what = "file of JSON lines"
    # Not by `splitlines`, which also ends a line at characters that may stand inside a caption, such as U+2028.
    return [_parse(path, line, what) for line in _text(path, what).split("\n") if line.strip()]


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except ValueError as error:
        raise UserError(f"{path} is no {what} ({error}); write it as UTF-8") from error


def _parse(path: Path, text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError(f"{path} is no {what} (its values are nested too deeply); export it again") from error
    except ValueError as error:
        reason = str(error).partition(";")[0]  # behind it Python advises programmers
        raise UserError(f"{path} is no {what} ({reason}); export it again") from error


def listed(name: str, folder: Path, *others: Path | None) -> Path:
    """The path of a file that an index names, without `..` in it.

    Links are followed, as in every folder; a path that leads out of the folders that the user named is not.

    Args:
        name: what the index says, relative or absolute.
        folder: to which relative ones are relative.
        others: further folders in which files may lie.

    Raises:
        UserError: it lies elsewhere, or there is no such file.
    """
    path = Path(os.path.normpath(folder / name))
    if not any(_absolute(path).is_relative_to(_absolute(root)) for root in (folder, *others) if root is not None):
        raise UserError(
            f"{name[:LONGEST]} lies outside of {folder}; name its folder with --images or --masks if it is to be read"
        )
    try:
        there = path.is_file()
    except OSError as error:
        raise UserError(f"{str(path)[:LONGEST]} cannot be opened ({error.strerror})") from error
    if not there:
        raise UserError(f"{str(path)[:LONGEST]} is not there")
    return path


def _absolute(path: Path) -> Path:
    """As it is written: `resolve` would follow links."""
    return Path(os.path.normpath(path.absolute()))
