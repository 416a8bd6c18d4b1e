"""What a finished training returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingResult:
    """Where a finished run left what it learned, and how far it came.

    Of several processes the first one writes the files; in the others `model` and `validation_images` are empty.

    Attributes:
        output_dir: the run's folder, which `load_pipeline` takes.
        model: files and folders in it that are the model: a pipeline's parts, or LoRA weights.
        validation_images: the pictures drawn after the last step.
        checkpoints: the checkpoints that were kept, oldest first.
        steps: optimizer steps taken, over all runs if it was resumed.
        losses: the last step's terms of the loss, as in `TrainingCallbacks.on_step`; empty if the run was resumed
            after its last step.
    """

    output_dir: Path
    model: Sequence[Path]
    validation_images: Sequence[Path]
    checkpoints: Sequence[Path]
    steps: int
    losses: Mapping[str, float]
