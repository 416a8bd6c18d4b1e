"""What is handed to tensorboard, wandb and the like."""

import json
import warnings
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import TrainingConfig


def log_with(report_to: str) -> list[str] | str | None:
    """Accelerate's `log_with`: what was asked for, or nothing, said aloud, when it is not installed."""
    if report_to in ("none", "all"):
        return None if report_to == "none" else "all"
    if report_to not in LOGGER_TYPE_TO_CLASS:
        known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
        raise UserError(f"--report_to {report_to} is unknown; choose all, none or one of {known}")
    if report_to not in [tracker.value for tracker in get_available_trackers()]:
        warnings.warn(f"no curves are logged: {report_to} is not installed (pip install {report_to})", stacklevel=2)
        return None
    return [report_to]


def loggable(config: TrainingConfig) -> dict[str, Any]:
    """The flags as trackers take them: numbers and strings of UTF-8 only."""
    return {key: _loggable(value) for key, value in config.flat().items()}


def _loggable(value: Any) -> bool | int | float | str:
    if isinstance(value, str):  # the path of a file may hold other bytes
        return value.encode(errors="backslashreplace").decode()
    return value if isinstance(value, bool | int | float) else json.dumps(value)
