"""Undo a reviewer's decision that was interrupted before its manifest line was written."""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.photos.files import write_bytes
from persam_dreambooth.photos.manifest import MANIFEST_NAME, OWN_FILES, format_line, manifest_line, parse_line

JOURNAL_NAME = ".decision.json"
"""Holds a photo's files and line as they were before the decision that is being written."""


def files_of(output: Path, stem: str) -> list[Path]:
    """Return the paths of a photo's mask, overlay and instances in an output folder, whether they exist or not."""
    return [output / form.format(stem) for form in OWN_FILES.values()]


def remember(output: Path, stem: str, line: bytes | None, contents: Mapping[Path, bytes | None]) -> None:
    """Save a photo's files and line in the journal; to be called in a `locked` block, before anything is changed.

    Args:
        output: the subject's output folder.
        stem: stem of the photo's file name.
        line: its newest manifest line, as `format_line` writes it; None if it has none.
        contents: the contents of `files_of`; None for an absent file.
    """
    kept = {
        "stem": stem,
        "line": _as_text(line),
        "files": [_as_text(contents[path]) for path in files_of(output, stem)],
    }
    with replacing(output / JOURNAL_NAME) as temporary:
        temporary.write_text(json.dumps(kept), encoding="utf-8")


def forget(output: Path) -> None:
    """Remove the journal, because the decision is complete or undone."""
    (output / JOURNAL_NAME).unlink(missing_ok=True)


def roll_back(output: Path) -> None:
    """Undo a decision that was interrupted before its line was written; to be called in a `locked` block."""
    journal = output / JOURNAL_NAME
    if not journal.is_file() or journal.is_symlink():
        return
    try:
        kept = json.loads(journal.read_text(encoding="utf-8"))
        stem, line = kept["stem"], _as_bytes(kept["line"])
        contents = [_as_bytes(text) for text in kept["files"]]
        is_ours = Path(stem).name == stem and "\0" not in stem and len(contents) == len(OWN_FILES)
    except (KeyError, TypeError, ValueError, RecursionError):
        is_ours = False  # a journal is written atomically, so this is another program's file
    if is_ours and _newest(output, stem) == line:
        restore(dict(zip(files_of(output, stem), contents, strict=True)))
    forget(output)


def restore(contents: Mapping[Path, bytes | None]) -> None:
    """Write these contents to their files; None removes the file."""
    for path, content in contents.items():
        if content is None and path.is_file():
            path.unlink(missing_ok=True)
        elif content is None:
            continue
        elif not path.is_file() or path.read_bytes() != content:
            write_bytes(content, path)


def _newest(output: Path, stem: str) -> bytes | None:
    line = manifest_line(output / MANIFEST_NAME, f"{stem}.png")
    return None if line is None else format_line(parse_line(line))


def _as_text(content: bytes | None) -> str | None:
    return None if content is None else b64encode(content).decode("ascii")


def _as_bytes(content: str | None) -> bytes | None:
    return None if content is None else b64decode(content, validate=True)
