"""Silence progress bars and messages of the libraries, so that the screen shows only our own lines."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers.utils import logging as transformers_logging


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
