"""Terminal output of a training: its own lines and one progress bar."""

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState
from tqdm import tqdm

from persam_dreambooth.errors import printable

WINDOW = 50
"""Number of steps over which the bar averages the loss; the loss of a single step depends mostly on its noise."""
logger = logging.getLogger(__name__)


def say(*lines: str) -> None:
    """Print lines on stdout, above any progress bar; with several processes, only in the main process."""
    if PartialState().is_main_process:
        for line in lines:
            tqdm.write(printable(line))


def warn(line: str) -> None:
    """Log a one-line warning; with several processes, only in the main process."""
    if PartialState().is_main_process:
        logger.warning("warning: %s", printable(line))


class LossBar(tqdm):  # type: ignore[type-arg]
    """Progress bar of the training, with the mean loss over the last 50 steps.

    Args:
        steps: in the whole run.
        done: steps already taken.
        hidden: whether to show nothing.
    """

    def __init__(self, steps: int, done: int, hidden: bool) -> None:
        self._losses = deque[float](maxlen=WINDOW)
        super().__init__(total=steps, initial=done, desc="Training", unit="step", disable=hidden)

    def advance(self, loss: float) -> None:
        """Advance by one step with this loss."""
        self._losses.append(loss)
        self.set_postfix_str(f"mean loss {sum(self._losses) / len(self._losses):.4f}", refresh=False)
        self.update()


def drawn_in_words(pictures: Sequence[Path]) -> list[str]:
    """Return a line with the paths of the validation pictures; none without pictures."""
    if not pictures:
        return []
    first, last = pictures[0], pictures[-1]
    return [f"validation: {first}" if first == last else f"validation: {first} to {last.name}"]
