"""Terminal output of a training: its own lines and one progress bar, but nothing from the libraries."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from persam_dreambooth.errors import printable

WINDOW = 50
"""Number of steps over which the bar averages the loss; the loss of a single step depends mostly on its noise."""
logger = logging.getLogger(__name__)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and internal warnings of diffusers and transformers inside the block.

    Downloads from the hub keep their bars, since fetching a base model can take minutes.
    """
    verbosity, bars = diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()
    shown = transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    downloads = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # also disables the hub's
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(verbosity)
        if bars:
            diffusers_logging.enable_progress_bar()
        if shown:
            transformers_logging.enable_progress_bar()


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
