"""Losses of one optimizer step over its batches and all processes; a step that is not finite is refused."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.runtime.checkpoint import in_words


@dataclass
class StepMetrics:
    """The batches since the last optimizer step.

    Attributes:
        terms: each term of the loss, one scalar tensor per batch.
        photos: names of the photos of each batch.
    """

    terms: dict[str, list[Tensor]] = field(default_factory=dict)
    photos: list[list[str]] = field(default_factory=list)

    def add(self, terms: dict[str, Tensor], photos: list[str]) -> None:
        """Add a batch."""
        for name, value in terms.items():
            self.terms.setdefault(name, []).append(value)
        self.photos.append(photos)

    def means(self, accelerator: Accelerator, stopping: bool) -> tuple[dict[str, float], bool]:
        """Return the mean of each term over the batches and all processes, and whether any process is to stop."""
        means = torch.stack([torch.stack(values).mean() for values in self.terms.values()])
        flag = torch.tensor([float(stopping)], device=means.device)
        *values, stop = accelerator.reduce(torch.cat([means, flag]), "mean").tolist()
        return dict(zip(self.terms, values, strict=True)), stop > 0

    def refuse_not_finite(self, loss: float, norm: float, accelerator: Accelerator, step: int, output: Path) -> None:
        """Raise in all processes if loss or gradient is not finite, before the optimizer takes the step.

        Args:
            loss: mean over batches and processes.
            norm: of the gradient, before clipping. With fp16, a norm that is not finite is only a matter of
                scaling: the scaler skips the step and lowers the scale.
            accelerator: communicates between the processes.
            step: number of this step.
            output: folder of the checkpoints.

        Raises:
            UserError: loss or norm is NaN or infinite; names the step and the photos of the batches at fault.
        """
        if math.isfinite(loss) and (math.isfinite(norm) or accelerator.scaler is not None):
            return
        wrong = [
            name
            for value, photos in zip(self.terms["loss"], self.photos, strict=True)
            if math.isfinite(loss) or not torch.isfinite(value)
            for name in photos
        ]
        photos = ", ".join(sorted(set(gather_object(wrong))))
        what = f"the gradient's norm became {norm}" if math.isfinite(loss) else f"the loss became {loss}"
        raise UserError(
            f"{what} in step {step} (photos: {photos}); the step was not taken, "
            f"{in_words(output)}; lower --learning_rate, or use --mixed_precision bf16 instead of fp16"
        )
