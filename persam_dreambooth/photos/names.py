"""File names that are not UTF-8, which Python reads as lone surrogates: no page and no UTF-8 file can hold them."""

import os
import re

from persam_dreambooth.errors import UserError


def is_text(words: str) -> bool:
    """Return whether a string can be shown on a page or written to a UTF-8 file."""
    return readable(words) == words


def can_name_a_file(words: str) -> bool:
    """Return whether a string can be a path or an argument: no NUL, and no lone surrogates except escaped bytes."""
    try:
        return b"\0" not in os.fsencode(words)
    except UnicodeEncodeError:
        return False


def check_caption_extension(ending: str) -> None:
    """Raise a UserError if a `--caption_extension` is not a file suffix."""
    if not re.fullmatch(r"\.[^/\\]+", ending):
        raise UserError(f"--caption_extension {ending} must be a dot and letters, such as .txt")


def readable(words: str) -> str:
    """Return a string that a page can show, with a question mark for each byte that is not UTF-8."""
    return words.encode("utf-8", "replace").decode("utf-8")
