"""Out-of-memory errors in one line that lists the flags which would help and are not on yet."""

from collections.abc import Iterator
from contextlib import contextmanager

from persam_dreambooth.errors import UserError, is_out_of_memory
from persam_dreambooth.training.config import TrainingConfig


@contextmanager
def explained(config: TrainingConfig) -> Iterator[None]:
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
