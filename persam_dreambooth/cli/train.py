"""`persam-dreambooth train`, and what `train_dreambooth_persam.py` runs: DreamBooth with masks."""

import shlex

from accelerate import PartialState
from diffusers.utils import logging as diffusers_logging

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.training.config import GROUPS, TrainingConfig
from persam_dreambooth.training.data.concepts import read_concepts
from persam_dreambooth.training.main import train

DESCRIPTION = "DreamBooth on a few photos, the loss taken over the subject only."


def run(program: str, argv: list[str]) -> None:
    """Train, then say where the model lies."""
    diffusers_logging.set_verbosity_error()  # its warnings here are about its own internals
    config = TrainingConfig(*parse(GROUPS, argv, program, DESCRIPTION))
    train(config)
    if PartialState().is_main_process:
        output = config.output.output_dir
        prompt = f"{read_concepts(config)[0].data.instance_prompt or 'a photo'} in the jungle"
        print(f"the model: {output}")
        print(f"try it: persam-dreambooth generate --model {shlex.quote(output)} --prompt {shlex.quote(prompt)}")
