"""What a decision changes is kept beside the manifest until its line is written: a stop in between is taken back."""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.photos.files import write_bytes
from persam_dreambooth.photos.manifest import MANIFEST_NAME, format_line, manifest_line, parse_line

JOURNAL_NAME = ".decision.json"
FOLDERS = {"masks": ".png", "overlays": ".jpg", "instances": ".png"}


def files_of(output: Path, stem: str) -> list[Path]:
    """The files of one photo in a segmentation's folder, be they there or not."""
    return [output / folder / f"{stem}{suffix}" for folder, suffix in FOLDERS.items()]


def remember(output: Path, stem: str, line: bytes | None, contents: Mapping[Path, bytes | None]) -> None:
    """Keep what a photo's files and line are now; to be called in a `locked` block, before anything is changed.

    Args:
        output: the folder.
        stem: of the photo's name.
        line: its newest, as `format_line` makes it.
        contents: of `files_of`; None for a file that is not there.
    """
    kept = {
        "stem": stem,
        "line": _as_text(line),
        "files": [_as_text(contents[path]) for path in files_of(output, stem)],
    }
    with replacing(output / JOURNAL_NAME) as temporary:
        temporary.write_text(json.dumps(kept), encoding="utf-8")


def forget(output: Path) -> None:
    """The decision is whole, or taken back."""
    (output / JOURNAL_NAME).unlink(missing_ok=True)


def roll_back(output: Path) -> None:
    """Take back what a decision that was stopped before its line has changed; to be called in a `locked` block."""
    journal = output / JOURNAL_NAME
    if not journal.is_file() or journal.is_symlink():
        return
    try:
        kept = json.loads(journal.read_text(encoding="utf-8"))
        stem, line = kept["stem"], _as_bytes(kept["line"])
        contents = [_as_bytes(one) for one in kept["files"]]
        is_ours = Path(stem).name == stem and "\0" not in stem and len(contents) == len(FOLDERS)
    except (KeyError, TypeError, ValueError, RecursionError):
        is_ours = False  # written whole or not at all, so this is no decision's
    if is_ours and _newest(output, stem) == line:
        restore(dict(zip(files_of(output, stem), contents, strict=True)))
    forget(output)


def restore(contents: Mapping[Path, bytes | None]) -> None:
    """Give files these contents; None removes one."""
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
