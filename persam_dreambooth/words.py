"""Numbers with their nouns and lists of names for messages; the words of prompts."""

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 photo", "3 photos"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


PLAIN = {
    *("a", "an", "the", "of", "my", "one", "this", "that", "in", "on", "with", "and"),
    *("photo", "photograph", "picture", "image", "painting", "drawing", "close-up", "closeup", "portrait"),
}
"""Words of a prompt that do not name a subject."""


def subject_words(prompt: str, class_prompt: str | None) -> list[str]:
    """Return the words of a prompt that are neither plain nor in the class prompt, in their order.

    With a class prompt these are the identifier; without one, the identifier and the class noun.
    """
    common = {*PLAIN, *(_words((class_prompt or "").lower()))}
    return [word for word in _words(prompt) if word.lower() not in common]


def _words(text: str) -> list[str]:
    stripped = (word.strip(",.;:!?()\"'") for word in text.split())
    return [word for word in stripped if word]


NAMED = 10
"""Number of names that a message lists before it counts the rest."""


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
