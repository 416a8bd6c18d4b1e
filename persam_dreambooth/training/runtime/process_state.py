"""What a training takes of its process: global settings, restored afterwards, and memory, explained if it is short."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from persam_dreambooth.errors import UserError, is_out_of_memory
from persam_dreambooth.training.config import TrainingConfig

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
        "--pre_compute_text_embeddings": not (model.train_text_encoder or model.pre_compute_text_embeddings),
        "--cache_latents": not data.cache_latents,
        "--mixed_precision bf16": optimization.mixed_precision in (None, "no"),
        f"--train_batch_size 1 --gradient_accumulation_steps {data.train_batch_size * accumulation}": (
            data.train_batch_size > 1
        ),
        f"--sample_batch_size 1 (while class images are made; now {data.sample_batch_size})": (
            data.with_prior_preservation and data.sample_batch_size > 1
        ),
        "--optimizer adamw8bit": not model.use_lora and optimization.optimizer != "adamw8bit",
        "no --use_ema": optimization.use_ema and not model.use_lora,
        "--use_lora": not model.use_lora,
        f"--resolution {lower}": data.resolution > lower,
    }
    return [flag for flag, helps in found.items() if helps] or ["a smaller base model"]
