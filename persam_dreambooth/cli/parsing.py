"""Parse flags and YAML keys into dataclasses, for all verbs; every user error is one line.

The flags are those that transformers' `HfArgumentParser` would make. It is not used, since importing transformers
takes most of a second, and `--help` should answer within one.
"""

import re
from argparse import (
    SUPPRESS,
    Action,
    ArgumentDefaultsHelpFormatter,
    ArgumentParser,
    Namespace,
    _ArgumentGroup,
)
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from persam_dreambooth.errors import UserError
from persam_dreambooth.flag_values import NUMBERS, as_word, did_you_mean, switch, typed_fields
from persam_dreambooth.yaml_files import read_yaml

LONGEST = 300
"""Maximum number of characters of an error that quotes user input."""


class Parser(ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError for a value of the wrong type."""
        message = re.sub(r"^argument (--\w+)[^:]*", r"\1", message)
        raise UserError(f"{message if len(message) <= LONGEST else message[:LONGEST] + '...'}; see --help")


class HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Show each flag in one spelling, with its default if it has one; keep the description's line breaks."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        if action.default in (None, SUPPRESS, []) or (action.const is True and action.default is False):
            return text
        return f"{text} (default: {'on' if action.default is True else action.default})"

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings or action.dest == "help":
            return super()._format_action_invocation(action)
        flag = action.option_strings[0].rstrip("_")  # the other spelling has dashes for underscores
        switch = action.nargs == 0 or action.const is True
        return flag if switch else f"{flag} {self._format_args(action, action.dest.upper().rstrip('_'))}"


def parse(
    groups: list[type],
    argv: list[str],
    program: str,
    description: str,
    essential: Sequence[str] = (),
    example: str = "",
) -> list[Any]:
    """Parse flags, and the defaults in `--config FILE.yaml`, into dataclasses.

    Flags take precedence over the file. A key of the file is a flag's name without the dashes; its value
    is checked in the same way as the flag's.

    Args:
        groups: dataclasses with `field(metadata={"help": ...})`; each may name a `_argument_group_name`.
        argv: the arguments, without the program.
        program: its name in help and errors.
        description: one line for the help.
        essential: names of the flags that the help lists first, in this order.
        example: flags of a first call, for the help.

    Raises:
        UserError: an unknown flag or key, a value of the wrong type, or whatever a dataclass's
            `__post_init__` refuses.
    """
    parser = _build_parser(groups, program, description, essential, example)
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    config = first.parse_known_args(argv)[0].config
    # `from` is a Python keyword: its field is `from_`.
    known = {flag.name.rstrip("_"): flag for group in groups for flag in fields(group)}
    settings, lists = _flags_from(Path(config), known) if config else ([], {})
    if config:
        _refuse_wrong_kinds(parser, settings, config)
    parser.set_defaults(**lists)
    namespace, unknown = parser.parse_known_args([*settings, *argv])
    if unknown:
        raise UserError(_unknown(unknown[0], list(known)))
    try:
        return [_build(group, namespace) for group in groups]
    except UserError as error:
        raise UserError(f"{error}{_origin(str(error), config, settings, argv)}") from error


def _build_parser(
    groups: list[type], program: str, description: str, essential: Sequence[str], example: str
) -> Parser:
    parser = Parser(
        prog=program,
        usage=f"{program} [--config FILE.yaml] [flags]",
        description=f"{description}\n\nexample:\n  {program} {example}" if example else description,
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="a YAML file of flags; flags on the command line take precedence"
    )
    flags = {flag.name: (flag, kind) for group in groups for flag, kind in typed_fields(group)}
    if essential:
        section = parser.add_argument_group("the most important flags")
        for name in essential:
            _add_flag(section, *flags[name])
    for group in groups:
        section = parser.add_argument_group(getattr(group, "_argument_group_name", "more flags"))
        for flag, kind in typed_fields(group):
            if flag.name not in essential:
                _add_flag(section, flag, kind)
    return parser


def _add_flag(section: _ArgumentGroup, flag: Field[Any], kind: Any) -> None:
    """Add a field as a flag, in both spellings; a switch that is on by default also gets a `--no_` flag."""
    default = flag.default if flag.default_factory is MISSING else flag.default_factory()
    shared: dict[str, Any] = {"default": default, "help": flag.metadata.get("help"), "dest": flag.name}
    spellings = [f"--{flag.name}", f"--{flag.name.replace('_', '-')}", *flag.metadata.get("aliases", ())]
    if kind is bool:
        section.add_argument(*spellings, type=switch, nargs="?", const=True, **shared)
        if default is True:
            opposite = [f"--no_{flag.name}", f"--no-{flag.name.replace('_', '-')}"]
            text = f"the opposite of --{flag.name}"
            section.add_argument(*opposite, action="store_false", dest=flag.name, default=SUPPRESS, help=text)
    elif get_origin(kind) is Literal:
        section.add_argument(*spellings, choices=get_args(kind), **shared)
    elif get_origin(kind) is list:
        section.add_argument(*spellings, type=get_args(kind)[0], nargs="+", **shared)
    else:
        section.add_argument(*spellings, type=NUMBERS.get(kind, kind), **shared)


def _build(group: type, namespace: Namespace) -> Any:
    return group(**{flag.name: getattr(namespace, flag.name) for flag in fields(group)})


def _flags_from(path: Path, known: dict[str, Field[Any]]) -> tuple[list[str], dict[str, list[str]]]:
    """Read a YAML file into flags, and separately the values of flags that take several."""
    settings = read_yaml(path, "config")
    if not isinstance(settings, dict):
        raise UserError(f"the config {path} must be lines of `key: value`, one for each flag")
    flags: list[str] = []
    lists: dict[str, list[str]] = {}
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"unknown key {key!r} in {path}{did_you_mean(str(key), list(known))}")
        flag, where = known[key], f" in {path}"
        if flag.default_factory is list:
            lists[key] = [as_word(flag, word, where) for word in (value if isinstance(value, list) else [value])]
        elif value is not None:
            flags.append(f"--{key}={as_word(flag, value, where)}")
    return flags, lists


def _refuse_wrong_kinds(parser: Parser, settings: list[str], config: str) -> None:
    try:
        parser.parse_known_args(settings)
    except UserError as error:
        raise UserError(f"in {config}: {error}") from error


def _origin(message: str, config: str | None, settings: list[str], argv: list[str]) -> str:
    """Say that the first flag in an error message was set in the config, unless the command line set it."""
    named = re.search(r"--\w+", message)
    given = {word.partition("=")[0].replace("-", "_") for word in argv}
    if config is None or named is None or named[0].replace("-", "_") in given:
        return ""
    return (
        f" ({named[0]} is set in {config})" if any(setting.startswith(f"{named[0]}=") for setting in settings) else ""
    )


def _unknown(word: str, names: list[str]) -> str:
    flag = word.partition("=")[0]  # its value may be a misspelt flag's secret
    if not flag.startswith("-"):
        return f'unknown argument {flag!r}; a value with spaces needs quotes, such as "a sks dog"'
    return f"unknown argument {flag}{did_you_mean(flag.lstrip('-'), names, '--')}"
