"""What the launcher may share out between processes: batches, gradients and optimizer state, but no weights."""

from accelerate.utils import DistributedType

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import TrainingConfig


def check(kind: DistributedType, zero_stage: int, config: TrainingConfig) -> None:
    """Refuse what would train or save wrong weights.

    Args:
        kind: how Accelerate was launched.
        zero_stage: DeepSpeed's, 0 without it.
        config: the training's flags.

    Raises:
        UserError: sharded weights, which are saved from whole modules here; or flags that DeepSpeed cannot take.
    """
    if kind == DistributedType.FSDP or zero_stage == 3:
        name = "DeepSpeed ZeRO-3" if zero_stage == 3 else "FSDP"
        raise UserError(
            f"{name} spreads the weights over the processes, and they cannot be saved from there yet; launch with "
            "configs/accelerate/multi_gpu.yaml or deepspeed_zero2.yaml"
        )
    if kind == DistributedType.DEEPSPEED:
        for flag, given in (
            ("train_text_encoder", config.model.train_text_encoder),
            ("use_ema", config.optimization.use_ema),
        ):
            if given:
                raise UserError(
                    f"--{flag} does not go with DeepSpeed, which takes one model and keeps its weights in low "
                    "precision; drop it, or launch with configs/accelerate/multi_gpu.yaml"
                )
