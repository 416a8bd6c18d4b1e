"""`--choose_checkpoint`: evaluate a run's checkpoints when it has ended, and name the best."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.evaluation.generation.checkpoints import checkpoint_folder, evaluate_checkpoints
from persam_dreambooth.model_folder import class_word, identifier
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.data.mask_folders import mask_folder, photo_folders
from persam_dreambooth.training.runtime import validation as validation_pictures
from persam_dreambooth.training.screen import warn


@dataclass(frozen=True)
class BestCheckpoint:
    """The checkpoint that `evaluate checkpoints` names.

    Attributes:
        folder: of the checkpoint, or the run's if the result is the best.
        reason: why, one sentence.
        page: the report with all pictures.
    """

    folder: Path
    reason: str
    page: Path


def check(config: TrainingConfig, concept: Concept, shares_weights: bool) -> None:
    """Refuse before the first step what the evaluation could not use.

    Args:
        config: a run with one subject.
        concept: the subject.
        shares_weights: whether FSDP writes the checkpoints, in its own format.

    Raises:
        UserError: the prompts do not name identifier and class, the photos lie in several folders, or FSDP.
    """
    if None in (identifier(config.flat()), class_word(config.flat())):
        raise UserError(
            "--choose_checkpoint draws prompts with the identifier and the class of the subject; give both, as in "
            '--instance_prompt "a sks dog" --class_prompt "a dog", or drop it'
        )
    if [folder.path for folder in photo_folders(concept)] != [concept.photos]:
        raise UserError("--choose_checkpoint compares with one folder of photos; put them into one, or drop it")
    if shares_weights:
        raise UserError("--choose_checkpoint cannot read FSDP's checkpoints; drop it")


def check_number(config: TrainingConfig, steps: int) -> None:
    """Refuse a run that leaves nothing to choose from.

    Raises:
        UserError: it has fewer than two checkpoints, its result included.
    """
    every, limit = config.output.checkpointing_steps, config.output.checkpoints_total_limit
    kept = min(steps // every, limit or steps)
    if kept + bool(steps % every) < 2:
        raise UserError(
            f"--choose_checkpoint has nothing to choose from: --checkpointing_steps {every} leaves one model of "
            f"{steps} steps; take a smaller number, or drop --choose_checkpoint or --checkpoints_total_limit"
        )


def choose(config: TrainingConfig, concept: Concept, device: torch.device) -> BestCheckpoint | None:
    """Evaluate all checkpoints, in `checkpoint-report`.

    The run is complete by now, so that a failure is no more than a warning.

    Returns:
        The best; None if the evaluation failed.
    """
    validation, output = config.validation, Path(config.output.output_dir)
    settings: dict[str, Any] = {
        "instance_data_dir": concept.photos,
        "instance_mask_dir": mask_folder(concept, config, photo_folders(concept)[0]),
        "num_images": validation.num_validation_images,
        "class_images": 2 * validation.num_validation_images,
        "num_inference_steps": validation_pictures.INFERENCE_STEPS,
        "sam": config.mask.sam,
        "device": str(device),
    }
    if validation.clip_model:
        settings |= {"clip_model": validation.clip_model, "dino_model": None}
    if validation.dino_model:
        settings["dino_model"] = validation.dino_model
    try:
        report = evaluate_checkpoints(output, **settings)
        chosen = report.metrics.get("checkpoints")
        if chosen:
            return BestCheckpoint(checkpoint_folder(output, chosen["best"]), chosen["reason"], report.page)
        reason = "the subject is found in none of their images"
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        reason = first_line(error)
    warn(
        f"the training is complete, but its checkpoints could not be compared ({reason}); try again: "
        f"persam-dreambooth evaluate checkpoints {_as_words({'run': output} | settings)}"
    )
    return None


def _as_words(flags: dict[str, Any]) -> str:
    """Return flags as a command line."""
    return " ".join(
        f"--{name} {shlex.quote(str('none' if value is None else value))}" for name, value in flags.items()
    )
