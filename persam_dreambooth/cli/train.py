"""`persam-dreambooth train`, which `train_dreambooth_persam.py` runs too: DreamBooth with masks."""

import shlex

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import is_first_process
from persam_dreambooth.training.config import GROUPS, TrainingConfig
from persam_dreambooth.training.refused_flags import REFUSED

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
    "--use_lora --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \\\n"
    '    --instance_data_dir dog --instance_mask_dir dog-masks --instance_prompt "a sks dog" \\\n'
    "    --max_train_steps 500 --output_dir dog-lora"
)


def run(program: str, argv: list[str]) -> None:
    """Train, then print the path of the model."""
    config = read_config(program, argv)
    # Imported here, since it takes seconds, and --help and most mistakes do not need it.
    from persam_dreambooth.training.main import train

    train(config)
    say_where(config)


def read_config(program: str, argv: list[str]) -> TrainingConfig:
    """Read flags and `--config` into the settings of a run; errors as `parse`."""
    return TrainingConfig(*parse(GROUPS, argv, program, DESCRIPTION, ESSENTIAL, EXAMPLE, REFUSED))


def say_where(config: TrainingConfig) -> None:
    """Print the path of the model and how to try it, in the first of several processes; nothing after a dry run."""
    if config.output.dry_run or not is_first_process():
        return
    from persam_dreambooth.training.data.concepts import read_concepts

    output = config.output.output_dir
    prompt = f"{read_concepts(config)[0].prompt or 'a photo'} in the jungle"
    print(f"the model: {output}")
    print(f"try it: persam-dreambooth generate --model {shlex.quote(output)} --prompt {shlex.quote(prompt)}")
