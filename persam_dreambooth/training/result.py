"""Result of a training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingResult:
    """Files and numbers of a finished run.

    With several processes the first one writes the files; in the others `model` and `validation_images` are empty.

    Attributes:
        output_dir: the output folder, for `load_pipeline`.
        model: the model's files and folders in it: LoRA weights, or a pipeline's parts.
        validation_images: pictures drawn after the last step.
        checkpoints: folders of the checkpoints that were kept, oldest first.
        steps: number of optimizer steps, including those before resuming.
        losses: the last step's terms of the loss, as in `TrainingCallbacks.on_step`; empty if no step was left.
    """

    output_dir: Path
    model: Sequence[Path]
    validation_images: Sequence[Path]
    checkpoints: Sequence[Path]
    steps: int
    losses: Mapping[str, float]
