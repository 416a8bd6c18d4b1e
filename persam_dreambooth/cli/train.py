"""`persam-dreambooth train`, which `train_dreambooth_persam.py` runs too: DreamBooth with masks."""

import shlex
from typing import TYPE_CHECKING

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import is_first_process
from persam_dreambooth.training.config import GROUPS, TrainingConfig
from persam_dreambooth.training.flag_groups import REFUSED

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from persam_dreambooth.training.main import TrainingResult

DESCRIPTION = "Train DreamBooth on a few photos, with the loss taken over the subject only."
ESSENTIAL = (
    "pretrained_model_name_or_path",
    "instance_data_dir",
    "instance_mask_dir",
    "instance_prompt",
    "class_prompt",
    "output_dir",
    "use_lora",
    "max_train_steps",
    "learning_rate",
    "resolution",
    "train_batch_size",
    "mixed_precision",
)
EXAMPLE = (
    "--use_lora --output_dir dog-lora \\\n"
    "    --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \\\n"
    "    --instance_data_dir dog --instance_mask_dir dog-masks \\\n"
    '    --instance_prompt "a sks dog" --max_train_steps 500 \\\n'
    "    --learning_rate 1e-4 --lr_warmup_steps 0"
)


def run(program: str, argv: list[str]) -> None:
    """Train, then print the path of the model."""
    config = read_config(program, argv)
    # Imported here, since it takes seconds, and --help and most mistakes do not need it.
    from persam_dreambooth.training.main import train

    say_where(config, train(config))


def read_config(program: str, argv: list[str]) -> TrainingConfig:
    """Read flags and `--config` into the settings of a run; errors as `parse`."""
    return TrainingConfig(*parse(GROUPS, argv, program, DESCRIPTION, ESSENTIAL, EXAMPLE, REFUSED))


def say_where(config: TrainingConfig, result: "TrainingResult") -> None:
    """Print where the model, or its best checkpoint, is and how to try it; nothing after a dry run.

    With several processes, only the first prints.
    """
    if config.output.dry_run or not is_first_process():
        return
    output = str(result.best_checkpoint or result.output_dir)
    prompt = f"{result.prompt or 'a photo'} in the jungle"
    print(f"the {'best checkpoint' if result.best_checkpoint else 'model'}: {output}")
    print(f"try it: persam-dreambooth generate --model {shlex.quote(output)} --prompt {shlex.quote(prompt)}")
