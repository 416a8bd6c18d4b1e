"""Names of files that are no UTF-8, which Python reads as half characters: no page and no UTF-8 file can hold them."""

import os


def is_text(words: str) -> bool:
    """Whether words can stand on a page, or in a UTF-8 file."""
    return readable(words) == words


def can_name_a_file(words: str) -> bool:
    """Return whether words can be a path or an argument: without NUL, and no half of a surrogate pair but a byte's."""
    try:
        return b"\0" not in os.fsencode(words)
    except UnicodeEncodeError:
        return False


def readable(words: str) -> str:
    """Words as a page can show them, with a question mark for each byte that is no UTF-8."""
    return words.encode("utf-8", "replace").decode("utf-8")
