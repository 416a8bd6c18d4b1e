"""Names, types and ranges of the settings in `--optimizer_args`, by optimizer; importing this loads no optimizer."""

import math
from collections.abc import Mapping
from typing import Any

from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Bounds

DECAY, AMOUNT, FACTOR, COUNT = Bounds(0, below=1), Bounds(0), Bounds(1e-30), Bounds(1)
COMMON = {"betas": (DECAY, DECAY), "weight_decay": AMOUNT, "eps": AMOUNT}
PRODIGY_DEFAULTS = {"beta3": None, "decouple": True, "use_bias_correction": True, "safeguard_warmup": True}
"""Settings of Prodigy that diffusers' scripts have as flags, `--prodigy_beta3` and so on, with their defaults."""
ALLOWED: dict[str, dict[str, Any]] = {
    "adamw": {**COMMON, "amsgrad": bool},
    "adamw8bit": {**COMMON, "min_8bit_size": int},
    "paged_adamw8bit": {**COMMON, "min_8bit_size": int},
    "prodigy": {
        **COMMON,
        "beta3": DECAY,
        **dict.fromkeys(("decouple", "use_bias_correction", "safeguard_warmup"), bool),
        "eps": FACTOR,
        "d0": FACTOR,
        "d_coef": FACTOR,
        "growth_rate": COUNT,
        "slice_p": int,
    },
}
"""Settings by optimizer, with the kind or the range of each; the learning rate has its own flag."""
FIXED = ("amsgrad", "min_8bit_size", "d0", "slice_p")
"""Settings that must not change on resume, since the optimizer's state depends on them."""


def checked(optimizer: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check an optimizer's settings and return them, numbers as floats except for whole-number settings.

    Raises:
        UserError: a setting that this optimizer does not have, or a value of the wrong kind or outside its range.
    """
    allowed = ALLOWED[optimizer]
    for name in given:
        if name not in allowed:
            raise UserError(
                f"--optimizer_args {name}: {optimizer} has no such setting; choose among {', '.join(allowed)}"
            )
    return {name: _read(f"--optimizer_args {name}={value}", allowed[name], value) for name, value in given.items()}


def _read(said: str, kind: Any, value: Any) -> Any:
    """Read one value; `kind` is a range, a tuple of ranges, or a type."""
    if kind is bool:
        if not isinstance(value, bool):
            raise UserError(f"{said} must be True or False")
        return value
    if isinstance(kind, tuple):
        if not isinstance(value, tuple | list) or len(value) != len(kind):
            raise UserError(f"{said} must be {len(kind)} numbers, such as 0.9,0.99")
        return [_read(said, part, number) for part, number in zip(kind, value, strict=True)]
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise UserError(f"{said} must be a {'whole number' if kind is int else 'number'}")
    number, bounds = _finite(value), COUNT if kind is int else kind
    if number not in bounds:
        raise UserError(f"{said} must {bounds.demand(number)}")
    return value if kind is int else number


def _finite(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def with_old_flags(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `optimizer_args` of a run's settings, including those given by diffusers' Prodigy flags.

    Args:
        settings: values by flag, as in `training_config.yaml`. Other optimizers ignore Prodigy's flags, as in
            diffusers' scripts; a setting in `optimizer_args` wins over its flag.
    """
    flags = {name: settings.get(f"prodigy_{name}") for name in PRODIGY_DEFAULTS}
    changed = {name: value for name, value in flags.items() if value is not None and value != PRODIGY_DEFAULTS[name]}
    is_prodigy = settings.get("optimizer") == "prodigy"
    return (changed if is_prodigy else {}) | dict(settings.get("optimizer_args") or {})
