"""What a training says in the terminal: lines of its own, one progress bar, and nothing of the libraries'."""

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
"""Steps over which the bar averages the loss: one step's says little, since its noise is drawn anew."""
logger = logging.getLogger(__name__)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, diffusers and transformers show no progress bars and no warnings about their own internals.

    Downloads from the hub keep their bars: a base model can take minutes.
    """
    verbosity, bars = diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()
    shown = transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    downloads = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # which disables the hub's too
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
    """Print lines on stdout, above the progress bar if there is one; of several processes the first one speaks."""
    if PartialState().is_main_process:
        for line in lines:
            tqdm.write(printable(line))


def warn(line: str) -> None:
    """Log a warning, one line; of several processes the first one speaks."""
    if PartialState().is_main_process:
        logger.warning("warning: %s", printable(line))


class LossBar(tqdm):  # type: ignore[type-arg]
    """The training's progress bar; behind it the mean of the loss over the last 50 steps.

    Args:
        steps: of the whole run.
        done: steps taken before.
        hidden: show nothing.
    """

    def __init__(self, steps: int, done: int, hidden: bool) -> None:
        self._losses = deque[float](maxlen=WINDOW)
        super().__init__(total=steps, initial=done, desc="Training", unit="step", disable=hidden)

    def advance(self, loss: float) -> None:
        """One more step, and its loss."""
        self._losses.append(loss)
        self.set_postfix_str(f"mean loss {sum(self._losses) / len(self._losses):.4f}", refresh=False)
        self.update()


def drawn_in_words(pictures: Sequence[Path]) -> list[str]:
    """Return a line that says where validation pictures lie; none without pictures."""
    if not pictures:
        return []
    first, last = pictures[0], pictures[-1]
    return [f"validation: {first}" if first == last else f"validation: {first} to {last.name}"]
