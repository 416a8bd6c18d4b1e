"""Experiment trackers: tensorboard, wandb and others."""

import json
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.screen import warn

DEFAULT = "tensorboard"


def log_with(report_to: str | None) -> list[str] | str | None:
    """Return Accelerate's `log_with`.

    Args:
        report_to: a tracker, "all" (that are installed), or "none"; None is tensorboard if it is installed.

    Raises:
        UserError: no such tracker, or it is not installed.
    """
    if report_to in ("none", "all"):
        return None if report_to == "none" else "all"
    name, installed = report_to or DEFAULT, [tracker.value for tracker in get_available_trackers()]
    if name not in LOGGER_TYPE_TO_CLASS:
        known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
        raise UserError(f"--report_to {name} is unknown; choose all, none or one of {known}")
    if name in installed:
        return [name]
    if report_to is None:
        warn(f"no curves are logged, since {DEFAULT} is not installed (pip install {DEFAULT})")
        return None
    raise UserError(
        f"--report_to {name}: {name} is not installed; pip install {name}, or choose all (that are installed) or none"
    )


def loggable(config: TrainingConfig) -> dict[str, Any]:
    """Return the flags in a form that trackers accept: numbers and UTF-8 strings."""
    return {key: _loggable(value) for key, value in config.flat().items()}


def _loggable(value: Any) -> bool | int | float | str:
    if isinstance(value, str):  # a path may hold other bytes
        return value.encode(errors="backslashreplace").decode()
    return value if isinstance(value, bool | int | float) else json.dumps(value)
