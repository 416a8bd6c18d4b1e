"""The types of flags, and how a value is read into one: alike on the command line, in YAML and in Python."""

import difflib
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Sequence
from dataclasses import Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.names import can_name_a_file

YES, NO = ("yes", "true", "t", "y", "1", "on"), ("no", "false", "f", "n", "0", "off")


def typed_fields(group: type) -> list[tuple[Field[Any], Any]]:
    """Return a dataclass's fields, each with its type; of `X | None` the X."""
    hints = get_type_hints(group)
    kinds = {name: [part for part in get_args(hint) if part is not type(None)] for name, hint in hints.items()}
    optional = {name for name, hint in hints.items() if type(None) in get_args(hint)}
    return [(flag, kinds[flag.name][0] if flag.name in optional else hints[flag.name]) for flag in fields(group)]


def switch(word: str) -> bool:
    """Read yes or no, in one of their spellings."""
    if word.lower() not in (*YES, *NO):
        raise ArgumentTypeError(f"{word!r} is neither yes nor no; give the flag alone, or true or false")
    return word.lower() in YES


def _number(kind: type, words: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r} is not {words}") from error

    return read


NUMBERS: dict[type, Callable[[str], Any]] = {int: _number(int, "a whole number"), float: _number(float, "a number")}


def as_word(flag: Field[Any], value: Any, where: str = "") -> str:
    """Return a value as the command line would hold it.

    Args:
        flag: the field it is for.
        value: a string, path, number or boolean, from YAML or Python.
        where: what messages say after the flag's name, such as " in config.yaml".

    Raises:
        UserError: several values, a boolean for a flag that is no switch, or characters that no argument can hold.
    """
    if isinstance(value, Collection) and not isinstance(value, str):
        raise UserError(f"{flag.name}{where} takes one value, not {value!r}")
    if isinstance(value, bool) and "choices" in flag.metadata:
        value = "yes" if value else "no"  # YAML reads an unquoted no as false
    elif isinstance(value, bool) and flag.type is not bool:
        raise UserError(f"{flag.name}{where} is read as {str(value).lower()}; write it in quotes if it is a word")
    if not can_name_a_file(str(value)):
        raise UserError(f"{flag.name}{where} holds characters that no command line can hold, such as NUL; remove them")
    return str(value)


def read_value(flag: Field[Any], kind: Any, value: Any, where: str = "") -> Any:
    """Read a value of YAML or Python as the flag would be read from the command line; arguments as `as_word`.

    Raises:
        UserError: as `as_word`, or a value of the wrong kind.
    """
    word = as_word(flag, value, where)
    try:
        if kind is bool:
            return switch(word)
        if get_origin(kind) is Literal and word not in get_args(kind):
            raise ArgumentTypeError(f"{word!r} is none of {', '.join(get_args(kind))}")
        return NUMBERS.get(kind, str)(word)
    except ArgumentTypeError as error:
        raise UserError(f"--{flag.name}{where}: {error}") from error


def did_you_mean(word: str, names: Sequence[str], prefix: str = "") -> str:
    """Return the end of a message about an unknown flag or key: the name that is nearest to it."""
    near = difflib.get_close_matches(word.replace("-", "_"), names, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else "; see --help for all of them"
