"""Global settings of Accelerate and torch, restored after a training."""

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
