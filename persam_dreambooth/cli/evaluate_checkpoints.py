"""`persam-dreambooth evaluate checkpoints`: choose the best checkpoint of a run, and say why."""

from dataclasses import dataclass
from typing import ClassVar

from persam_dreambooth.cli.evaluate_generation import PROMPTS, DrawnFlags, say
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import flag

DESCRIPTION = (
    "Generate images with each checkpoint of a training run and with its base model, and name the best checkpoint. "
    "Measured are the fidelity to the subject, the leakage of the photos' background, and whether others of the "
    "subject's class turn into it. Photos, masks, identifier, class and size are those of the run unless others are "
    "given."
)
ESSENTIAL = ("run", "steps", "prompts", "num_images", "class_images", "instance_data_dir", "instance_mask_dir", "sam")
EXAMPLE = "--run dog-lora"


@dataclass
class CheckpointFlags(DrawnFlags):
    """Flags of `evaluate checkpoints`."""

    needed: ClassVar[tuple[str, ...]] = ("run",)

    run: str | None = flag(None, "the --output_dir of a training with checkpoints; it may still be running")
    steps: list[str] = flag([], "steps of the checkpoints to evaluate; all if unset")
    output: str | None = flag(
        None, "folder for the report; checkpoint-report in the run's if unset, where `review --run` finds it"
    )
    prompts: str = flag("scenes", PROMPTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(step.isdecimal() for step in self.steps):
            raise UserError(f"--steps {' '.join(self.steps)} must be numbers, such as 200 400")
        if bool(self.instance_data_dir) != bool(self.instance_mask_dir):
            raise UserError("--instance_data_dir and --instance_mask_dir belong together; give both or neither")


def run(program: str, argv: list[str]) -> None:
    """Evaluate, then print the table, the best checkpoint and the path of the report."""
    (flags,) = parse([CheckpointFlags], argv, program, DESCRIPTION, ESSENTIAL, EXAMPLE)
    from persam_dreambooth.evaluation.generation.checkpoints import evaluate_checkpoints

    given = flags.settings() | {"steps": [int(step) for step in flags.steps]}
    say(evaluate_checkpoints(given.pop("run"), **given))
