"""Flags of the SAM: refused for methods without one, and what is loaded by them."""

import pytest
import torch

from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.errors import UserError


@pytest.mark.parametrize(
    ("name", "value"), [("sam", "facebook/sam-vit-base"), ("sam_size", 1536), ("dtype", "bfloat16")]
)
def test_given_flag_is_refused_for_a_method_without_sam(name, value):
    flags = SamFlags(**{name: value})
    for method in ("insid3", "seggpt"):
        SamFlags().refuse_unread(method)
        with pytest.raises(UserError, match=f"--{name} has no effect on --method {method}, which has no SAM"):
            flags.refuse_unread(method)
        flags.refuse_unread(method, [other for other in ("sam", "sam_size", "dtype") if other != name])
    for method in ("persam", "persam-f", "insid3-sam"):
        flags.refuse_unread(method)
    SamFlags(device="cpu").refuse_unread("insid3")  # which has a device


def test_size_of_nothing_is_refused():
    with pytest.raises(UserError, match="--sam_size 0 must be at least 1"):
        SamFlags(sam_size=0)


def test_sam_is_loaded_with_its_size_and_precision(models):
    given = {"sam": str(models / "sam"), "device": "cpu"}
    plain, other = SamFlags(**given).backbone(), SamFlags(**given, sam_size=256, dtype="bfloat16").backbone()
    assert SamFlags(dtype="float16").torch_dtype is torch.float16
    assert (plain.image_size, plain.dtype) == (128, torch.float32)
    assert (other.image_size, other.dtype) == (256, torch.bfloat16)
    with pytest.raises(UserError, match="no SAM at 'no-sam'"):
        SamFlags(sam="no-sam", device="cpu").backbone()
