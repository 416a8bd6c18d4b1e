"""File names that are not UTF-8, which Python reads as lone surrogates: no page and no UTF-8 file can hold them."""

import os


def is_text(words: str) -> bool:
    """Return whether a string can be shown on a page or written to a UTF-8 file."""
    return readable(words) == words


def can_name_a_file(words: str) -> bool:
    """Return whether a string can be a path or an argument: no NUL, and no lone surrogates except escaped bytes."""
    try:
        return b"\0" not in os.fsencode(words)
    except UnicodeEncodeError:
        return False


def readable(words: str) -> str:
    """Return a string that a page can show, with a question mark for each byte that is not UTF-8."""
    return words.encode("utf-8", "replace").decode("utf-8")
