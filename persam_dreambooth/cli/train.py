"""`persam-dreambooth train`, and what `train_dreambooth_persam.py` runs: DreamBooth with masks."""

import shlex

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.training.config import GROUPS, TrainingConfig

DESCRIPTION = "DreamBooth on a few photos, the loss taken over the subject only."
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
    """Train, then say where the model lies."""
    config = TrainingConfig(*parse(GROUPS, argv, program, DESCRIPTION, ESSENTIAL, EXAMPLE))
    # Below this line, since these take seconds to import, and --help and most mistakes need none of them.
    from accelerate import PartialState

    from persam_dreambooth.training.data.concepts import read_concepts
    from persam_dreambooth.training.main import train

    train(config)
    if PartialState().is_main_process:
        output = config.output.output_dir
        prompt = f"{read_concepts(config)[0].data.instance_prompt or 'a photo'} in the jungle"
        print(f"the model: {output}")
        print(f"try it: persam-dreambooth generate --model {shlex.quote(output)} --prompt {shlex.quote(prompt)}")
