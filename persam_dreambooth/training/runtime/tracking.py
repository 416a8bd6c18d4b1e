"""Mean losses of an optimizer step over its batches and all processes; settings of the experiment trackers."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import gather_object
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.runtime.checkpoint import in_words
from persam_dreambooth.training.screen import warn


@dataclass
class StepMetrics:
    """The batches since the last optimizer step.

    Attributes:
        terms: each term of the loss, one scalar tensor per batch.
        photos: names of the photos of each batch.
    """

    terms: dict[str, list[Tensor]] = field(default_factory=dict)
    photos: list[list[str]] = field(default_factory=list)

    def add(self, terms: dict[str, Tensor], photos: list[str]) -> None:
        """Add a batch."""
        for name, value in terms.items():
            self.terms.setdefault(name, []).append(value)
        self.photos.append(photos)

    def means(self, accelerator: Accelerator, stopping: bool) -> tuple[dict[str, float], bool]:
        """Return the mean of each term over the batches and all processes, and whether any process is to stop."""
        means = torch.stack([torch.stack(values).mean() for values in self.terms.values()])
        flag = torch.tensor([float(stopping)], device=means.device)
        *values, stop = accelerator.reduce(torch.cat([means, flag]), "mean").tolist()
        return dict(zip(self.terms, values, strict=True)), stop > 0

    def refuse_not_finite(self, loss: float, norm: float, accelerator: Accelerator, step: int, output: Path) -> None:
        """Raise in all processes if loss or gradient is not finite, before the optimizer takes the step.

        Args:
            loss: mean over batches and processes.
            norm: of the gradient, before clipping. With fp16, a norm that is not finite is only a matter of
                scaling: the scaler skips the step and lowers the scale.
            accelerator: communicates between the processes.
            step: number of this step.
            output: folder of the checkpoints.

        Raises:
            UserError: loss or norm is NaN or infinite; names the step and the photos of the batches at fault.
        """
        if math.isfinite(loss) and (math.isfinite(norm) or accelerator.scaler is not None):
            return
        wrong = [
            name
            for value, photos in zip(self.terms["loss"], self.photos, strict=True)
            if math.isfinite(loss) or not torch.isfinite(value)
            for name in photos
        ]
        photos = ", ".join(sorted(set(gather_object(wrong))))
        what = f"the gradient's norm became {norm}" if math.isfinite(loss) else f"the loss became {loss}"
        raise UserError(
            f"{what} in step {step} (photos: {photos}); the step was not taken, "
            f"{in_words(output)}; lower --learning_rate, or use --mixed_precision bf16 instead of fp16"
        )


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
        f"--report_to {name}: {name} is not installed; pip install {name}, or choose all (those installed) or none"
    )


def loggable(config: TrainingConfig) -> dict[str, Any]:
    """Return the flags in a form that trackers accept: numbers and UTF-8 strings."""
    return {key: _loggable(value) for key, value in config.flat().items()}


def _loggable(value: Any) -> bool | int | float | str:
    if isinstance(value, str):  # a path may hold other bytes
        return value.encode(errors="backslashreplace").decode()
    return value if isinstance(value, bool | int | float) else json.dumps(value)
