"""Dataclasses to flags and YAML keys: one reading for every verb, every mistake one line."""

import difflib
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, Namespace, _StoreFalseAction
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml
from transformers import HfArgumentParser

from persam_dreambooth.errors import UserError


class Parser(HfArgumentParser):
    """transformers' parser, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Refuse a value of the wrong kind."""
        raise UserError(f"{message}; see --help")


class HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Each flag in one spelling, with its default where it has one."""

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        if isinstance(action, _StoreFalseAction):
            return f"the opposite of --{action.dest}"
        if action.default in (None, SUPPRESS, []) or (action.const is True and action.default is False):
            return text
        return f"{text} (default: {'on' if action.default is True else action.default})"

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings or action.dest == "help":
            return super()._format_action_invocation(action)
        flag = action.option_strings[0].rstrip("_")  # the others are the same with dashes for underscores
        switch = action.nargs == 0 or action.const is True
        return flag if switch else f"{flag} {self._format_args(action, action.dest.upper().rstrip('_'))}"


def parse(groups: list[type], argv: list[str], program: str, description: str) -> list[Any]:
    """Read flags, and `--config FILE.yaml` below them, into dataclasses.

    A flag wins over the file. A key of the file is a flag's name without the dashes; its value
    is checked exactly as the flag's would be.

    Args:
        groups: dataclasses with `field(metadata={"help": ...})`; each may name a `_argument_group_name`.
        argv: the arguments, without the program.
        program: how the user called it, for help and errors.
        description: one line for the help.

    Raises:
        UserError: an unknown flag or key, a value of the wrong kind, or whatever a dataclass's
            `__post_init__` refuses.
    """
    parser = Parser(
        cast(Any, groups),
        prog=program,
        usage=f"{program} [--config FILE.yaml] [flags]",
        description=description,
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="a YAML file of flags; flags given here win")
    first = Parser([], add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    config = first.parse_known_args(argv)[0].config
    # `from` is a word of Python: its field is `from_`.
    known = {one.name.rstrip("_"): one for group in groups for one in fields(group)}
    names = list(known)
    settings, lists = _flags_from(Path(config), known) if config else ([], {})
    parser.set_defaults(**lists)
    namespace, unknown = parser.parse_known_args([*settings, *argv])
    if unknown:
        flag = unknown[0].partition("=")[0]  # its value may be a misspelt flag's secret
        raise UserError(f"unknown argument {flag}{_did_you_mean(flag.lstrip('-'), names, '--')}")
    return [_build(group, namespace) for group in groups]


def _build(group: type, namespace: Namespace) -> Any:
    return group(**{one.name: getattr(namespace, one.name) for one in fields(group)})


def _flags_from(path: Path, known: dict[str, Field[Any]]) -> tuple[list[str], dict[str, list[str]]]:
    """A YAML file as the flags it stands for, and apart from them those with several values."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no config at {path}; check the path") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"the config {path} is no readable YAML ({' '.join(str(error).split())})") from error
    if not isinstance(settings, dict):
        raise UserError(f"the config {path} must be lines of `key: value`, one for each flag")
    flags: list[str] = []
    lists: dict[str, list[str]] = {}
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"unknown key {key!r} in {path}{_did_you_mean(str(key), list(known), '')}")
        takes_several = known[key].default_factory is list
        if isinstance(value, dict) or (isinstance(value, list) and not takes_several):
            raise UserError(f"{key} in {path} takes one value, not {value!r}")
        if isinstance(value, bool) and "choices" in known[key].metadata:
            value = "yes" if value else "no"  # YAML reads an unquoted no as false
        elif isinstance(value, bool) and known[key].type is not bool:
            raise UserError(f"{key} in {path} is read as {str(value).lower()}; write it in quotes if it is a word")
        if takes_several:
            lists[key] = [str(one) for one in (value if isinstance(value, list) else [value])]
        elif value is not None:
            flags.append(f"--{key}={value}")
    return flags, lists


def _did_you_mean(word: str, names: list[str], prefix: str) -> str:
    near = difflib.get_close_matches(word.replace("-", "_"), names, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else "; see --help for all of them"
