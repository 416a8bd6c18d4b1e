"""Parse flags and YAML keys into dataclasses, for all verbs; every user error is one line.

The flags are those that transformers' `HfArgumentParser` would make. It is not used, since importing transformers
takes most of a second, and `--help` should answer within one.
"""

import re
import textwrap
from argparse import (
    SUPPRESS,
    Action,
    ArgumentParser,
    HelpFormatter,
    Namespace,
    _ArgumentGroup,
)
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, get_args, get_origin

from persam_dreambooth.errors import UserError
from persam_dreambooth.flag_values import (
    NUMBERS,
    as_word,
    did_you_mean,
    read_settings,
    read_value,
    refuse_by_name,
    renamed,
    say_renamed,
    setting,
    shown,
    switch,
    with_new_names,
)
from persam_dreambooth.flags import Flag, flags_of

LONGEST = 300
"""Maximum number of characters of an error that quotes user input."""


class Parser(ArgumentParser):
    """argparse with one-line errors, which takes -5e-1 for a number, as all Pythons take -0.5."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        """Raise a UserError for a value of the wrong type."""
        message = re.sub(r"^argument (--\w+)[^:]*", r"\1", message)
        raise UserError(f"{message if len(message) <= LONGEST else message[:LONGEST] + '...'}; see --help")


class FlagHelp(HelpFormatter):
    """Show each flag in one spelling; keep the description's line breaks and whatever has hyphens in one piece."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()  # indented ones are commands, to be copied as they are
        return "\n".join(line if line.startswith(" ") else "\n".join(_wrap(line, width)) for line in lines)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrap(text, width)

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings or action.dest == "help":
            return super()._format_action_invocation(action)
        flag = action.option_strings[0]  # the other spelling has dashes for underscores
        is_switch = action.nargs == 0 or action.const is True
        return flag if is_switch else f"{flag} {self._format_args(action, flag.removeprefix('--').upper())}"


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def parse(
    groups: list[type],
    argv: list[str],
    program: str,
    description: str,
    essential: Sequence[str] = (),
    example: str = "",
    refused: Mapping[str, str] | None = None,
) -> list[Any]:
    """Parse flags, and the defaults in `--config FILE.yaml`, into dataclasses.

    Flags take precedence over the file. A key of the file is a flag's name without the dashes; its value
    is checked in the same way as the flag's.

    Args:
        groups: dataclasses whose fields are `flag(...)`.
        argv: the arguments, without the program.
        program: its name in help and errors.
        description: one line for the help.
        essential: names of the flags that the help lists first, in this order.
        example: flags of a typical first call, for the help.
        refused: names of flags of other scripts that are deliberately not supported, each with the reason.

    Raises:
        UserError: an unknown or refused flag or key, a value of the wrong type, or whatever a dataclass's
            `__post_init__` refuses.
    """
    parser = _build_parser(groups, program, description, essential, example)
    argv = _with_new_names(argv, groups)
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    path = first.parse_known_args(argv)[0].config
    config = _Config.read(Path(path), groups, refused) if path else _Config()
    if path:
        _refuse_wrong_kinds(parser, config.words, path)
    parser.set_defaults(**config.several)
    namespace, unknown = parser.parse_known_args([*config.words, *argv])
    if unknown:
        refuse_by_name(unknown[0].partition("=")[0].removeprefix("--"), refused)
        raise UserError(_unknown(unknown[0], shown(flags_of(*groups))))
    try:
        return [_build(group, namespace) for group in groups]
    except UserError as error:
        raise UserError(f"{error}{_origin(str(error), path, config, argv)}") from error


def _build_parser(
    groups: list[type], program: str, description: str, essential: Sequence[str], example: str
) -> Parser:
    parser = Parser(
        prog=program,
        usage=f"{program} [--config FILE.yaml] [flags]",
        description=f"{description}\n\nexample:\n  {program} {example}" if example else description,
        allow_abbrev=False,
        formatter_class=FlagHelp,
    )
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="a YAML file of flags; flags on the command line take precedence"
    )
    if essential:
        flags = {flag.name: flag for flag in flags_of(*groups)}
        section = parser.add_argument_group("the most important flags")
        for name in essential:
            _add_flag(section, flags[name])
    for group in groups:
        title = getattr(group, "_argument_group_name", "flags")
        section = parser.add_argument_group("more flags" if essential and title == "flags" else title)
        for flag in flags_of(group):
            if flag.name not in essential:
                _add_flag(section, flag)
    return parser


def _add_flag(section: _ArgumentGroup, flag: Flag) -> None:
    """Add a flag in both spellings; a switch that is on by default, or may be, also gets a `--no_` flag."""
    shared: dict[str, Any] = {"default": flag.default, "help": _help(flag), "dest": flag.name}
    spellings = dict.fromkeys((flag.spelling, flag.spelling.replace("_", "-"), f"--{flag.name}"))
    if flag.kind is bool:
        section.add_argument(*spellings, type=switch, nargs="?", const=True, **shared)
        if flag.default is not False:
            opposite = [f"--no_{flag.name}", f"--no-{flag.name.replace('_', '-')}"]
            text = SUPPRESS if flag.hidden else f"turn --{flag.name} off"
            section.add_argument(*opposite, action="store_false", dest=flag.name, default=SUPPRESS, help=text)
    elif get_origin(flag.kind) is Literal:
        section.add_argument(*spellings, choices=get_args(flag.kind), **shared)
    elif get_origin(flag.kind) is list:
        section.add_argument(*spellings, type=get_args(flag.kind)[0], nargs="+", **shared)
    elif get_origin(flag.kind) is dict:
        section.add_argument(*spellings, type=setting, nargs="+", metavar="KEY=VALUE", **shared)
    else:
        section.add_argument(*spellings, type=NUMBERS.get(flag.kind, flag.kind), **shared)


def _help(flag: Flag) -> str:
    """Return the help of a flag, with its bounds and its default in brackets."""
    if flag.hidden:
        return SUPPRESS
    remarks = [str(flag.bounds)] if flag.bounds else []
    if flag.default is not None and flag.default not in ([], {}) and flag.default is not False:
        remarks.append(f"default: {'on' if flag.default is True else flag.default}")
    text = f"{flag.help} ({'; '.join(remarks)})" if remarks else flag.help
    return text.replace("%", "%%")  # argparse substitutes what follows a single one


def _build(group: type, namespace: Namespace) -> Any:
    values = {flag.name: getattr(namespace, flag.name) for flag in flags_of(group)}
    pairs = {flag.name: dict(values[flag.name]) for flag in flags_of(group) if get_origin(flag.kind) is dict}
    return group(**values | pairs)


def _with_new_names(argv: Sequence[str], groups: Sequence[type]) -> list[str]:
    """Replace old names of flags by the current ones, with one warning for each."""
    new, words, said = renamed(groups), list[str](), set[str]()
    for word in argv:
        spelling, equals, value = word.partition("=")
        old = spelling.removeprefix("--").replace("-", "_")
        if not spelling.startswith("--") or old not in new:
            words.append(word)
            continue
        if old not in said:
            say_renamed(old, new[old])
            said.add(old)
        words.append(f"--{new[old]}{equals}{value}")
    return words


@dataclass(frozen=True)
class _Config:
    """The flags of a YAML file.

    Attributes:
        words: flags of one value, as the command line would hold them.
        several: values of the flags that take several.
    """

    words: list[str] = field(default_factory=list)
    several: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, groups: Sequence[type], refused: Mapping[str, str] | None = None) -> Self:
        """Read a file; errors as `parse`."""
        settings, where = read_settings(path), f" in {path}"
        known = {flag.spelling.removeprefix("--"): flag for flag in flags_of(*groups)}
        config = cls()
        for key, value in with_new_names(settings, groups, where).items():
            if key not in known:
                refuse_by_name(str(key), refused, where)
                raise UserError(f"unknown key {key!r}{where}{did_you_mean(str(key), shown(known.values()))}")
            flag = known[key]
            if value is None:
                continue
            if get_origin(flag.kind) in (list, dict):
                config.several[flag.name] = read_value(flag, value, where)
            else:
                config.words.append(f"--{key}={as_word(flag, value, where)}")
        return config

    def sets(self, flag: str) -> bool:
        """Return whether a flag, such as `--seed`, is in the file."""
        return flag.removeprefix("--") in self.several or any(word.startswith(f"{flag}=") for word in self.words)


def _refuse_wrong_kinds(parser: Parser, words: list[str], path: str) -> None:
    try:
        parser.parse_known_args(words)
    except UserError as error:
        raise UserError(f"in {path}: {error}") from error


def _origin(message: str, path: str | None, config: _Config, argv: list[str]) -> str:
    """Return a remark that an error message's first flag is set in the config, unless the command line sets it."""
    named = re.search(r"--\w+", message)
    given = {word.partition("=")[0].replace("-", "_") for word in argv}
    if path is None or named is None or named[0].replace("-", "_") in given:
        return ""
    return f" ({named[0]} is set in {path})" if config.sets(named[0]) else ""


def _unknown(word: str, names: list[str]) -> str:
    flag = word.partition("=")[0]  # without the value, which may be the secret of a misspelt flag
    if not flag.startswith("-"):
        return f'unknown argument {flag!r}; a value with spaces needs quotes, such as "a sks dog"'
    return f"unknown argument {flag}{did_you_mean(flag.lstrip('-'), names, '--')}"
