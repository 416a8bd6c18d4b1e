"""Functions of the caller's that a training calls while it runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def _ignore(*_: object) -> None:
    """Do nothing: the default of every callback."""


@dataclass(frozen=True)
class TrainingCallbacks:
    """What `train` calls, in its own thread; of several processes in the first one only.

    An exception in a callback ends the run as Ctrl-C does: the step is finished (of several processes the next
    one, which all of them take), a checkpoint is written, and `train` raises the exception. After
    the last step the model is saved first.

    Attributes:
        on_step: called after each optimizer step with its number, counted from 1 over the whole run, resumed or not,
            and the terms of the loss by the names under which they are logged ("loss" is their weighted sum), means
            over the step's batches.
        on_checkpoint: called with the folder of each checkpoint, once it is whole.
        on_validation: called with the files of the validation pictures, each time they were drawn.
    """

    on_step: Callable[[int, Mapping[str, float]], object] = _ignore
    on_checkpoint: Callable[[Path], object] = _ignore
    on_validation: Callable[[Sequence[Path]], object] = _ignore
