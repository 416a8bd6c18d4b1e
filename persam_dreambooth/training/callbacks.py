"""Functions that a training calls while it runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def _ignore(*_: object) -> None:
    """Do nothing: the default of every callback."""


@dataclass(frozen=True)
class TrainingCallbacks:
    """Functions that `train` calls in its own thread, and only in the first of several processes.

    An exception in a callback ends the run as Ctrl-C does: a checkpoint is written, and `train` raises the exception.
    After `on_step` this is the step just taken; after `on_checkpoint` and `on_validation`, and with several processes,
    one more step is taken, in which all processes agree to stop. After the last step the model is saved first.

    Attributes:
        on_step: called after each optimizer step with its number (from 1; a resumed run continues to count) and the
            terms of the loss, by their names in the log: means over the step's batches. "loss" is their weighted sum.
        on_checkpoint: called with the folder of each finished checkpoint.
        on_validation: called with the paths of new validation pictures.
    """

    on_step: Callable[[int, Mapping[str, float]], object] = _ignore
    on_checkpoint: Callable[[Path], object] = _ignore
    on_validation: Callable[[Sequence[Path]], object] = _ignore
