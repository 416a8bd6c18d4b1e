"""Numbers with their nouns, and lists of names, for messages."""

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 photo", "3 photos"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


NAMED = 10
"""Number of names that a message lists before it counts the rest."""


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
