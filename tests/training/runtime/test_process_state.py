"""The process around a training: its signals, its global settings, and memory errors that say what would help."""

import signal
import threading
import time

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.families.loading import naming
from persam_dreambooth.training.runtime.process_state import (
    SAME_SIGNAL,
    StopSignal,
    memory_explained,
    own_state,
    savings,
)
from tests.training.small import configure, make


def test_duplicate_signal_is_ignored_and_later_one_ends_immediately():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal(speaks=False) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # forwarded by the launcher
        assert stop.number == signal.SIGINT
        time.sleep(SAME_SIGNAL * 1.1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # like nohup
    try:
        with StopSignal(speaks=False) as stop:
            signal.raise_signal(signal.SIGINT)
        assert stop.number is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_out_of_memory_while_loading_is_reported(models):
    config, _ = make(models / "stable-diffusion")
    with (
        pytest.raises(UserError, match="out of memory; to need less, use"),
        memory_explained(config),
        naming("the unet of x"),
    ):
        raise RuntimeError("can't start new thread")
    with (
        pytest.raises(UserError, match="the unet of x cannot be loaded"),
        memory_explained(config),
        naming("the unet of x"),
    ):
        raise RuntimeError("no such layer")


def test_flags_already_set_are_not_suggested(models):
    model = {"use_lora": True, "gradient_checkpointing": True, "pre_compute_text_embeddings": True}
    data = {"resolution": 64, "train_batch_size": 1, "cache_latents": True}
    low = {"mixed_precision": "bf16"}
    assert savings(configure(models, model, optimization=low, data=data)) == ["--quantize int8"]
    config = configure(models, model | {"quantize": "fp8"}, optimization=low, data=data)
    assert savings(config) == ["a smaller base model"]


def test_signal_is_told_once_by_the_process_that_speaks(capfd):
    for speaks in (True, False):
        with StopSignal(speaks=speaks) as stop:
            assert not stop.wanted
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert stop.wanted and stop.number == signal.SIGTERM
        told = "\nSIGTERM: stopping after this step; a second signal ends it at once\n"
        assert capfd.readouterr().err == (told if speaks else "")


def test_after_an_error_no_callback_is_called():
    called, stop = [], StopSignal()
    stop.call(called.append, 1)
    stop.call(int, "no number")
    stop.call(called.append, 2)
    assert called == [1] and isinstance(stop.error, ValueError) and stop.wanted
    silent = StopSignal(speaks=False)
    silent.call(called.append, 3)
    assert called == [1] and not silent.wanted


def test_no_handler_is_set_in_a_thread():
    seen, before = [], signal.getsignal(signal.SIGTERM)

    def run():
        with StopSignal():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_global_state_is_fresh_inside_and_restored_after_an_error():
    Accelerator(gradient_accumulation_steps=3)
    before, torch.backends.cuda.matmul.allow_tf32 = AcceleratorState()._shared_state.copy(), True
    try:
        with pytest.raises(KeyError), own_state():
            assert not AcceleratorState._shared_state and not torch.backends.cuda.matmul.allow_tf32
            assert Accelerator(gradient_accumulation_steps=5).gradient_accumulation_steps == 5
            with pytest.raises(UserError, match="another training is running in this process"), own_state():
                pass
            raise KeyError
        assert AcceleratorState._shared_state == before and torch.backends.cuda.matmul.allow_tf32
        with own_state():  # the lock is free again
            pass
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_savings_say_what_the_flags_of_the_run_would_become():
    data = {"train_batch_size": 3, "resolution": 100, "with_prior_preservation": True, "sample_batch_size": 4}
    data |= {"class_data_dir": "class", "class_prompt": "a dog"}
    found = savings(configure("base", optimization={"gradient_accumulation_steps": 2, "use_ema": True}, data=data))
    assert "--train_batch_size 1 --gradient_accumulation_steps 6" in found and "--resolution 64" in found
    assert "--sample_batch_size 1 (while class images are made; now 4)" in found
    assert {"no --use_ema", "--optimizer adamw8bit", "--use_lora"} < set(found) and "--quantize int8" not in found
