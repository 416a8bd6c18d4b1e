"""Names of files that are no UTF-8, which Python reads as half characters: no page and no UTF-8 file can hold them."""


def is_text(words: str) -> bool:
    """Whether words can stand on a page, or in a UTF-8 file."""
    return readable(words) == words


def readable(words: str) -> str:
    """Words as a page can show them, with a question mark for each byte that is no UTF-8."""
    return words.encode("utf-8", "replace").decode("utf-8")
