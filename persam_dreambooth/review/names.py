"""Names of files that are no UTF-8, which Python reads as half characters: no page can show or ask for them."""


def is_text(name: str) -> bool:
    """Whether a page can show a name."""
    return readable(name) == name


def readable(words: str) -> str:
    """Words that a page can show, with a question mark for each byte that is no UTF-8."""
    return words.encode("utf-8", "replace").decode("utf-8")
