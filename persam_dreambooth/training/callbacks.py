"""Functions that a training calls while it runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def _ignore(*_: object) -> None:
    """Do nothing: the default of every callback."""


@dataclass(frozen=True)
class TrainingCallbacks:
    """Functions that `train` calls in its own thread, and only in the first of several processes.

    An exception in a callback ends the run like Ctrl-C: the step is finished (with several processes the next step, so
    that all of them take it), a checkpoint is written, and `train` raises the exception. After the last step the model
    is saved first.

    Attributes:
        on_step: called after each optimizer step with its number, counted from 1 and continued when resuming, and with
            the terms of the loss by their names in the log ("loss" is their weighted sum), means over the step's
            batches.
        on_checkpoint: called with the folder of each finished checkpoint.
        on_validation: called with the paths of new validation pictures.
    """

    on_step: Callable[[int, Mapping[str, float]], object] = _ignore
    on_checkpoint: Callable[[Path], object] = _ignore
    on_validation: Callable[[Sequence[Path]], object] = _ignore
