"""The methods' names, and flags that some of them do not read."""

from typing import get_args

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.method_names import (
    MethodName,
    refuse_sam,
    refuse_seggpt,
    refuse_size_alone,
)
from persam_dreambooth.segmentation.method import METHODS

NAMES = get_args(MethodName)


def test_every_method_has_its_name():
    assert set(NAMES) == set(METHODS)
    assert all(METHODS[name].name == name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_size_needs_an_encoder(name):
    refuse_size_alone(name, "dino", 64)
    refuse_size_alone(name, None, None)
    if name.startswith("insid3"):  # which always has one
        refuse_size_alone(name, None, 64)
        return
    with pytest.raises(UserError, match=r"^--presence_features_size is the size of the --presence_features model"):
        refuse_size_alone(name, None, 64, "presence_")


@pytest.mark.parametrize("name", NAMES)
def test_flags_of_the_sam_and_of_seggpt_are_for_methods_that_read_them(name):
    refuse_seggpt(name, seggpt=None, ensemble=False)
    if name == "seggpt":
        refuse_seggpt(name, seggpt="model")
    else:
        with pytest.raises(UserError, match=rf"^--ensemble is read by SegGPT only, not by {name}; leave it out"):
            refuse_seggpt(name, seggpt=None, ensemble=True)
    if name in ("insid3", "seggpt"):
        with pytest.raises(UserError, match=rf"^--sam has no effect on --method {name}, which has no SAM"):
            refuse_sam(name, "--sam")
    else:
        refuse_sam(name, "--sam")
