"""`--use_ema`: an exponential moving average (EMA) of the trained weights, in checkpoints, validation and result."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import nn

from persam_dreambooth.training.config import OptimizationConfig

EMA_NAME = "ema.safetensors"


def build_average(parameters: Sequence[nn.Parameter], config: OptimizationConfig) -> EMAModel | None:
    """Build the EMA of the weights, as in diffusers' scripts; None without `--use_ema`.

    After step t it is s_t = d_t s_(t-1) + (1 - d_t) w_t with d_t = min(t / (9 + t), --ema_decay) and
    d_1 = 0, so that short runs average over about their last tenth.
    """
    return EMAModel(parameters, decay=config.ema_decay) if config.use_ema else None


@contextmanager
def averaged(average: EMAModel | None, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Swap the EMA weights into the parameters inside the block; does nothing without an EMA."""
    if average is None:
        yield
        return
    average.store(parameters)
    average.copy_to(parameters)
    try:
        yield
    finally:
        average.restore(parameters)


def save_average(average: EMAModel, folder: Path) -> None:
    """Write the EMA into a checkpoint."""
    tensors = {str(number): weight.contiguous() for number, weight in enumerate(average.shadow_params)}
    save_file(tensors | {"step": torch.tensor(average.optimization_step)}, folder / EMA_NAME)


def load_average(average: EMAModel, folder: Path) -> None:
    """Read what `save_average` wrote."""
    tensors = load_file(folder / EMA_NAME)
    average.optimization_step = int(tensors["step"])
    for number, weight in enumerate(average.shadow_params):
        weight.copy_(tensors[str(number)])
