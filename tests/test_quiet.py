"""Other libraries' bars and messages are silent inside a block, and as before after it."""

import logging

import pytest
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging as transformers_logging

from persam_dreambooth.quiet import quiet


def test_progress_bars_are_restored_after_training():
    diffusers_logging.enable_progress_bar()
    transformers_logging.enable_progress_bar()  # the hub's too, whatever state earlier tests left
    before = diffusers_logging.get_verbosity()
    with quiet():
        assert not diffusers_logging.is_progress_bar_enabled() and not transformers_logging.is_progress_bar_enabled()
        assert not are_progress_bars_disabled()  # downloads keep their bars
        assert diffusers_logging.get_verbosity() == logging.ERROR
    assert diffusers_logging.is_progress_bar_enabled() and transformers_logging.is_progress_bar_enabled()
    assert diffusers_logging.get_verbosity() == before


def test_bars_that_were_off_stay_off_also_after_an_error():
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()  # the hub's too
    try:
        with pytest.raises(RuntimeError, match="stop"), quiet():
            assert are_progress_bars_disabled()
            raise RuntimeError("stop")
        assert not diffusers_logging.is_progress_bar_enabled() and not transformers_logging.is_progress_bar_enabled()
    finally:
        diffusers_logging.enable_progress_bar()
        transformers_logging.enable_progress_bar()
