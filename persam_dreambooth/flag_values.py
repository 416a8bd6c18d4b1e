"""Read and check values of flags, in the same way from the command line, YAML and Python."""

import ast
import difflib
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from persam_dreambooth.errors import UserError, is_first_process, printable
from persam_dreambooth.flags import Flag, flags_of
from persam_dreambooth.text_files import can_name_a_file, read_yaml

YES, NO = ("yes", "true", "t", "y", "1", "on"), ("no", "false", "f", "n", "0", "off")
Value = TypeVar("Value")


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


def setting(word: str) -> tuple[str, Any]:
    """Read KEY=VALUE, the value a Python literal."""
    key, _, text = word.partition("=")
    if not key.isidentifier() or not text:
        raise ArgumentTypeError(f"{word!r} is not KEY=VALUE, such as weight_decay=0.01")
    try:
        return key, ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ArgumentTypeError(
            f"{word!r}: the value is not a number, True, False, None or a tuple such as 0.9,0.99"
        ) from error


def as_words(flag: Flag, value: Any, where: str = "") -> list[str]:
    """Return the values of a flag as the command line would hold them, each as `as_word` does.

    A list flag takes several values, and a KEY=VALUE flag several or a mapping; every other flag takes one.
    """
    if get_origin(flag.kind) is dict and isinstance(value, Mapping):
        value = [f"{key}={part}" for key, part in value.items()]
    if get_origin(flag.kind) in (list, dict) and isinstance(value, list | tuple):
        return [as_word(flag, part, where) for part in value]
    return [as_word(flag, value, where)]


def as_word(flag: Flag, value: Any, where: str = "") -> str:
    """Return a value as the command line would hold it.

    Args:
        flag: the flag it is for.
        value: a string, path, number or boolean, from YAML or Python.
        where: origin of the value, which messages add to the flag's name, such as " in config.yaml".

    Raises:
        UserError: several values, a boolean for a flag that is no switch, or characters that no argument can hold.
    """
    if isinstance(value, Collection) and not isinstance(value, str):
        raise UserError(f"{flag.name}{where} takes one value, not {value!r}; give one")
    if isinstance(value, bool) and get_origin(flag.kind) is Literal and "no" in get_args(flag.kind):
        value = "yes" if value else "no"  # YAML reads an unquoted no as false
    elif isinstance(value, bool) and flag.kind is not bool:
        raise UserError(f"{flag.name}{where} is read as {str(value).lower()}; write it in quotes if it is a word")
    if not can_name_a_file(str(value)):
        raise UserError(f"{flag.name}{where} holds characters that no command line can hold, such as NUL; remove them")
    return str(value)


def read_value(flag: Flag, value: Any, where: str = "") -> Any:
    """Read a value of YAML or Python as the flag would be read from the command line; arguments as `as_word`.

    Raises:
        UserError: as `as_word`, or a value of the wrong kind.
    """
    words = as_words(flag, value, where)
    try:
        if get_origin(flag.kind) is dict:
            return dict(map(setting, words))
        if get_origin(flag.kind) is list:
            return words
        (word,) = words
        if flag.kind is bool:
            return switch(word)
        if get_origin(flag.kind) is Literal and word not in get_args(flag.kind):
            raise ArgumentTypeError(f"{word!r} is none of {', '.join(get_args(flag.kind))}")
        return NUMBERS.get(flag.kind, str)(word)
    except ArgumentTypeError as error:
        raise UserError(f"--{flag.name}{where}: {error}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of flags, under their current or old names.

    Raises:
        UserError: it cannot be read, or is no mapping.
    """
    settings = read_yaml(path, "config")
    if not isinstance(settings, dict):
        raise UserError(f"the config {path} must be lines of `key: value`, one for each flag")
    return settings


def build_groups(
    groups: Sequence[type],
    settings: Mapping[str, Any],
    where: str = "",
    more: Mapping[str, Any] | None = None,
    refused: Mapping[str, str] | None = None,
) -> list[Any]:
    """Build dataclasses of flags from single settings.

    Args:
        groups: the dataclasses.
        settings: values by the flags' current names; None is the flag's default.
        where: origin of `settings`, which messages add to a flag's name, such as " in config.yaml".
        more: settings that take precedence over these; None has no effect.
        refused: keys of other scripts that are deliberately not supported, each with the reason.

    Raises:
        UserError: an unknown or refused key, or as `read_value` and the dataclasses.
    """
    known = {flag.name: flag for flag in flags_of(*groups)}
    values = dict[str, Any]()
    for given, place in ((settings, where), (more or {}, "")):
        for name, value in given.items():
            if name not in known:
                refuse_by_name(str(name), refused, place)
                raise UserError(f"unknown key {name!r}{place}{did_you_mean(str(name), shown(known.values()))}")
            if value is not None:
                values[name] = read_value(known[name], value, place)
    names = {group: [flag.name for flag in flags_of(group)] for group in groups}
    return [group(**{name: values[name] for name in names[group] if name in values}) for group in groups]


def renamed(groups: Sequence[type]) -> dict[str, str]:
    """Return the current names of renamed flags by their old ones."""
    return {old: flag.name for flag in flags_of(*groups) for old in flag.old_names}


def with_new_names(
    settings: Mapping[str, Value], groups: Sequence[type], where: str = "", quiet: bool = False
) -> dict[str, Value]:
    """Return settings under the flags' current names; unless `quiet`, warn on stderr about each old name.

    Raises:
        UserError: a flag under both its names.
    """
    new = renamed(groups)
    for old in new.keys() & settings.keys():
        if new[old] in settings:
            raise UserError(f"{old}{where} is the old name of {new[old]}, which is given too; drop one")
        if not quiet:
            say_renamed(old, new[old], where)
    return {new.get(name, name): value for name, value in settings.items()}


def say_renamed(old: str, new: str, where: str = "") -> None:
    """Warn on stderr, in the first of several processes, that a flag was renamed."""
    if is_first_process():
        print(
            printable(f"warning: --{old}{where} is called --{new} now; the next release drops the old name"),
            file=sys.stderr,
        )


def shown(flags: Collection[Flag]) -> list[str]:
    """Return the names of the flags that the help shows, without their dashes."""
    return [flag.spelling.removeprefix("--") for flag in flags if not flag.hidden]


def did_you_mean(word: str, names: Sequence[str], prefix: str = "") -> str:
    """Return the end of a message about an unknown flag or key: the name that is nearest to it."""
    near = difflib.get_close_matches(word.replace("-", "_"), names, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else "; see --help for all of them"


def refuse_by_name(name: str, refused: Mapping[str, str] | None, where: str = "") -> None:
    """Raise a UserError for a flag that is refused with a reason."""
    reason = (refused or {}).get(name.replace("-", "_"))
    if reason is not None:
        raise UserError(f"--{name.replace('-', '_')}{where} is not supported: {reason}")


def check_drawing(num_images: int, num_inference_steps: int, height: int | None, width: int | None) -> None:
    """Check the flags of `generate` and `evaluate` for the number and size of the pictures, and the denoising steps.

    Raises:
        UserError: a number below 1, only one of height and width, or a size that is not a multiple of 8.
    """
    for name, number in (("num_images", num_images), ("num_inference_steps", num_inference_steps)):
        if number < 1:
            raise UserError(f"--{name} {number} must be at least 1")
    if (height is None) != (width is None):
        raise UserError("--height and --width belong together; give both or neither")
    if any(side is not None and (side < 8 or side % 8) for side in (height, width)):
        raise UserError(f"--height {height} and --width {width} must be multiples of 8")
