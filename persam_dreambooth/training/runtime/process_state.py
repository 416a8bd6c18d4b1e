"""A training run's effects on its process: signal handlers, global settings (restored afterwards), memory errors."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from persam_dreambooth.errors import UserError, is_out_of_memory
from persam_dreambooth.training.config import TrainingConfig

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_SIGNAL = 1.0
"""Seconds within which a repeated signal counts as the same one: a terminal's Ctrl-C reaches the whole process
group, and the launcher forwards it again."""


class StopSignal:
    """Context manager that records SIGTERM and SIGINT; a second signal ends the process in the usual way.

    Signals that the process ignored stay ignored. Outside the main thread, where Python does not allow
    handlers, nothing is recorded. An exception of a callback is recorded as well.

    Args:
        speaks: whether this is the process that reports the signal on stderr and calls the callbacks.

    Attributes:
        number: the signal that was received, or None.
        error: the first exception that a callback raised, or None.
    """

    def __init__(self, speaks: bool = True) -> None:
        self.speaks = speaks
        self.number: int | None = None
        self.error: Exception | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._note) for number in wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: was not set from Python
        self._previous = {}

    @property
    def wanted(self) -> bool:
        """Whether this process was asked to stop, by a signal or a callback's exception."""
        return self.number is not None or self.error is not None

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call a callback, only in the process that `speaks`; after a callback has raised, call none any more."""
        if self.speaks and self.error is None:
            try:
                callback(*arguments)
            except Exception as error:
                self.error = error

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._since = number, now
            if self.speaks:
                name = signal.Signals(number).name
                # os.write, since the handler may have interrupted a print, and stderr's buffer is not reentrant.
                os.write(2, f"\n{name}: stopping after this step; a second signal ends it at once\n".encode())
        elif now - self._since > SAME_SIGNAL:
            self.__exit__()
            signal.raise_signal(number)


# In this order: device and process group; precision, plugins and compiler; accumulation and active data loaders.
STATES = (PartialState, AcceleratorState, GradientState)
_training = threading.Lock()


@contextmanager
def own_state() -> Iterator[None]:
    """Reset the global state of Accelerate and torch's TF32 switch, and restore it afterwards.

    Accelerate keeps the settings of the first `Accelerator` of a process, and refuses or ignores those of later ones.

    Raises:
        UserError: another thread of this process is training; both would share this state and the random generators.
    """
    if not _training.acquire(blocking=False):
        raise UserError("another training is running in this process; wait until it ends, or train in another process")
    before = [dict(state._shared_state) for state in STATES]
    tf32 = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        _put_back([{} for _ in STATES])
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        # The end of a training ends the process group, so the state before it is no longer valid.
        grouped = before[0].get("num_processes", 1) > 1 and not torch.distributed.is_initialized()
        _put_back([{} for _ in STATES] if grouped else before)
        _training.release()


def _put_back(values: list[dict[str, object]]) -> None:
    for state, kept in zip(STATES, values, strict=True):
        state._shared_state.clear()
        state._shared_state.update(kept)


@contextmanager
def memory_explained(config: TrainingConfig) -> Iterator[None]:
    """Turn an out-of-memory error of GPU or CPU into a UserError that lists the flags which save memory."""
    try:
        yield
    except (MemoryError, RuntimeError, UserError) as error:
        if not any(map(is_out_of_memory, (error, error.__cause__))):  # or the cause of a failure to load
            raise
        raise UserError(f"out of memory; to need less, use: {', '.join(savings(config))}") from error


def savings(config: TrainingConfig) -> list[str]:
    """List the flags that save memory and are not on yet; those that change the result least come first."""
    model, data, optimization = config.model, config.data, config.optimization
    lower, accumulation = max(64, data.resolution // 2), optimization.gradient_accumulation_steps
    found = {
        "--gradient_checkpointing": not model.gradient_checkpointing,
        "--pre_compute_text_embeddings": not (
            model.train_text_encoder or model.train_text_encoder_ti or model.pre_compute_text_embeddings
        ),
        "--cache_latents": not data.cache_latents,
        "--mixed_precision bf16": optimization.mixed_precision in (None, "no"),
        f"--train_batch_size 1 --gradient_accumulation_steps {data.train_batch_size * accumulation}": (
            data.train_batch_size > 1
        ),
        f"--sample_batch_size 1 (while class images are made; now {data.sample_batch_size})": (
            data.with_prior_preservation and data.sample_batch_size > 1
        ),
        "--quantize int8": model.frozen_base and not (model.quantize or model.bnb_quantization_config_path),
        "--optimizer adamw8bit": not model.frozen_base and "8bit" not in optimization.optimizer,
        "no --use_ema": optimization.use_ema and not model.frozen_base,
        "--use_lora": not model.frozen_base,
        f"--resolution {lower}": data.resolution > lower,
    }
    return [flag for flag, helps in found.items() if helps] or ["a smaller base model"]
