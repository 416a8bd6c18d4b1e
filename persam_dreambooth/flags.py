"""Declare flags: dataclass fields with a help text, bounds and old names, the same for every verb."""

import math
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, get_args, get_type_hints

from persam_dreambooth.errors import UserError

LARGE = 2**31
"""Powers of two from here on are written as such in messages."""


def _written(number: float) -> str:
    exponent = int(abs(number)).bit_length() - 1 if abs(number) >= LARGE and number == int(number) else 0
    if exponent and abs(number) == 2**exponent:
        return f"{'-' if number < 0 else ''}2^{exponent}"
    return f"{number:g}"


@dataclass(frozen=True)
class Bounds:
    """The range of a number; NaN and infinity are outside of every range.

    Attributes:
        min: the smallest allowed value.
        max: the largest allowed value.
        below: exclusive upper bound, instead of `max`.
    """

    min: float
    max: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return self.min <= value < math.inf and (
            (self.max is None or value <= self.max) and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Return the range as the help shows it."""
        if self.max is not None:
            return f"{_written(self.min)} to {_written(self.max)}"
        least = f"at least {_written(self.min)}"
        return least if self.below is None else f"{least}, below {_written(self.below)}"

    def demand(self, value: float) -> str:
        """Return the end of a message about a value outside, after "must"."""
        if self.max is not None:
            return f"lie in [{_written(self.min)}, {_written(self.max)}]"
        if self.below is not None:
            return f"lie in [{_written(self.min)}, {_written(self.below)})"
        return "be finite" if value == math.inf else f"be at least {_written(self.min)}"


def setting_text(value: object) -> str:
    """Return a flag's value as people say it: on, off and unset instead of True, False and None."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "unset" if value is None else str(value)


def flag(
    default: Any,
    text: str,
    *,
    min: float | None = None,
    max: float | None = None,
    below: float | None = None,
    spelling: str | None = None,
    old_names: Sequence[str] = (),
    hidden: bool = False,
    secret: bool = False,
) -> Any:
    """Declare a flag as a field of a dataclass, which should derive from `Flags`.

    Args:
        default: its value if it is not given; a list or a dictionary is copied.
        text: the help text; bounds and default are added to it.
        min: the smallest allowed number; needed for the other two.
        max: the largest allowed number.
        below: exclusive upper bound, instead of `max`.
        spelling: the flag, where it is not the field's name: `--from`, since `from` is a Python keyword.
        old_names: former names, still accepted with a warning that gives the current one; never shown.
        hidden: read, but not shown in the help, in the signature of `TrainingConfig` or in saved settings.
        secret: keep the value out of the dataclass's `repr`.
    """
    more = {
        "help": text,
        "bounds": None if min is None else Bounds(min, max, below),
        "spelling": spelling,
        "old_names": tuple(old_names),
        "hidden": hidden,
    }
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, repr=not secret, metadata=more)
    return field(default=default, repr=not secret, metadata=more)


@dataclass(frozen=True)
class Flag:
    """A declared flag: the field's name, its type without `| None` as `kind`, and the arguments of `flag`."""

    name: str
    kind: Any
    default: Any
    help: str
    bounds: Bounds | None
    spelling: str
    old_names: tuple[str, ...]
    hidden: bool

    @classmethod
    def of(cls, declared: Field[Any], hint: Any) -> "Flag":
        """Read a field and its type hint."""
        parts = get_args(hint)
        kind = next(part for part in parts if part is not type(None)) if type(None) in parts else hint
        default = declared.default if declared.default_factory is MISSING else declared.default_factory()
        known = declared.metadata
        return cls(
            name=declared.name,
            kind=kind,
            default=default,
            help=known.get("help", ""),
            bounds=known.get("bounds"),
            spelling=known.get("spelling") or f"--{declared.name}",
            old_names=known.get("old_names", ()),
            hidden=known.get("hidden", False),
        )


def flags_of(*groups: type) -> list[Flag]:
    """Return the flags of dataclasses, in order."""
    hints = {group: get_type_hints(group) for group in groups}
    return [Flag.of(declared, hints[group][declared.name]) for group in groups for declared in fields(group)]


class Flags:
    """Base of the dataclasses of flags.

    Attributes:
        _argument_group_name: headline of the group in the help.
    """

    _argument_group_name: ClassVar[str] = "flags"

    def __post_init__(self) -> None:
        """Check the bounds; a `__post_init__` of a subclass calls this one.

        Raises:
            UserError: the first value outside its bounds.
        """
        for declared in fields(self):  # type: ignore[arg-type]  # its subclasses are dataclasses
            value, bounds = getattr(self, declared.name), declared.metadata.get("bounds")
            if bounds is not None and value is not None and value not in bounds:
                raise UserError(f"--{declared.name} {value} must {bounds.demand(value)}")

    def require(self, names: Sequence[str]) -> None:
        """Raise a UserError for the first of these flags that was not given."""
        for declared in fields(self):  # type: ignore[arg-type]  # as above
            if declared.name in names and not getattr(self, declared.name):
                raise UserError(f"--{declared.name} is missing ({declared.metadata['help']}); see --help")
