"""A group of training flags as it is read from the command line, and what is said of wrong ones."""

import pytest

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import ModelConfig

REQUIRED = {ModelConfig: ("--pretrained_model_name_or_path", "base")}


def of_flags(group, *words):
    return parse([group], [*REQUIRED.get(group, ()), *words], "train", "a training")[0]


def refusal(group, *words):
    """Return the error, without the quotation marks that argparse puts around choices in some Pythons."""
    with pytest.raises(UserError) as error:
        of_flags(group, *words)
    return str(error.value).replace("'", "")
