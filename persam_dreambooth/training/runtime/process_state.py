"""Settings that libraries keep for a whole process, set apart for one training."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from persam_dreambooth.errors import UserError

# Device and process group; precision, plugins and compiler; accumulation and the data loaders at work.
STATES = (PartialState, AcceleratorState, GradientState)
_training = threading.Lock()


@contextmanager
def own_state() -> Iterator[None]:
    """Inside, Accelerate and torch's TF32 switch start as in a new process; afterwards they are as they were before.

    Accelerate keeps what its first `Accelerator` was given, and refuses or ignores what a later one asks for.

    Raises:
        UserError: another thread of this process is training, which would share all of this and the random numbers.
    """
    if not _training.acquire(blocking=False):
        raise UserError("this process is training already; wait for its end, or train in another process")
    before = [dict(state._shared_state) for state in STATES]
    tf32 = torch.backends.cuda.matmul.allow_tf32
    try:
        _put_back([{} for _ in STATES])
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        # The end of a training ends the process group; what the caller had of it is no longer true.
        grouped = before[0].get("num_processes", 1) > 1 and not torch.distributed.is_initialized()
        _put_back([{} for _ in STATES] if grouped else before)
        _training.release()


def _put_back(values: list[dict[str, object]]) -> None:
    for state, kept in zip(STATES, values, strict=True):
        state._shared_state.clear()
        state._shared_state.update(kept)
