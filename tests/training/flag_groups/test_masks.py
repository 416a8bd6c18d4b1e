"""Flags of masks: one source, and none that plain DreamBooth or another method would not read."""

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import MaskConfig
from tests.training.flag_groups.parsed import of_flags, refusal
from tests.training.small import configure

REFERENCE = {"reference_image": "dog.jpg", "reference_mask": "dog.png"}


@pytest.mark.parametrize("mask", [{"exclude_mask_dir": "x"}, {"unmasked_probability": 0.5}])
def test_flags_of_masks_need_masks(mask):
    with pytest.raises(UserError, match="--no_masked_loss"):
        configure("model", mask={"masked_loss": False, "instance_mask_dir": None} | mask)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--background_weight", "1.5"], "--background_weight 1.5 must lie in [0, 1]"),
        (["--unmasked_probability", "-0.1"], "--unmasked_probability -0.1 must lie in [0, 1]"),
        (["--uncertain_photo_weight", "2"], "--uncertain_photo_weight 2.0 must lie in [0, 1]"),
        (["--mask_dilation", "-1"], "--mask_dilation -1 must be at least 0"),
        (["--cache_background_prior", "0"], "--cache_background_prior 0 must be at least 1"),
        (["--mask_downsample", "mean"], "mean (choose from area, nearest, max, min)"),
        (["--mask_normalization", "photo"], "photo (choose from sample, batch, none)"),
        (["--segmentation_method", "sam"], "sam (choose from persam,"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_values_outside_are_refused(words, said):
    assert said in refusal(MaskConfig, *words)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"instance_mask_dir": "masks"}, "drop --instance_mask_dir and --reference_image"),
        (REFERENCE, "drop --instance_mask_dir and --reference_image"),
        ({"region_mask_dir": "regions"}, "drop --region_mask_dir"),
        ({"attention_loss_weight": 0.5}, "--attention_loss_weight 0.5 needs masks"),
        ({"background_prior_weight": 0.5}, "--background_prior_weight 0.5 needs masks"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_plain_dreambooth_reads_no_masks(given, said):
    """The same flags are taken with the masked loss, which is the default."""
    assert MaskConfig(**given).masked_loss and not of_flags(MaskConfig, "--no_masked_loss").masked_loss
    with pytest.raises(UserError, match=said):
        MaskConfig(masked_loss=False, **given)


@pytest.mark.parametrize(
    ("given", "columns", "said"),
    [
        ({}, [], "masks are needed: give --instance_mask_dir"),
        ({"reference_image": "dog.jpg"}, [], "belong together"),
        ({"reference_mask": "dog.png", "instance_mask_dir": "masks"}, [], "belong together"),
        (
            {"instance_mask_dir": "masks", "region_mask_dir": "regions"},
            [],
            "one place, and --instance_mask_dir and --region_mask_dir were given",
        ),
        (REFERENCE, ["--mask_column"], "one place, and --reference_image and --mask_column were given"),
        ({"masked_loss": False}, ["--region_columns"], "uses no masks; drop --region_columns"),
    ],
)
def test_masks_come_from_one_place(given, columns, said):
    with pytest.raises(UserError, match=said):
        MaskConfig(**given).check_source(columns)


@pytest.mark.parametrize(
    ("given", "columns"),
    [
        ({"instance_mask_dir": "masks"}, []),
        ({"region_mask_dir": "regions"}, []),
        (REFERENCE, []),
        ({}, ["--mask_column"]),
        ({"masked_loss": False}, []),
    ],
)
def test_each_place_is_enough(given, columns):
    MaskConfig(**given).check_source(columns)


@pytest.mark.parametrize(
    "given",
    [
        {"segmentation_method": "persam-f"},
        {"segmentation_features": "dino"},
        {"segmentation_features": "dino", "segmentation_features_size": 448},
        {"segmentation_method": "seggpt", "segmentation_seggpt": "folder"},
    ],
    ids=lambda given: next(reversed(given)),
)
def test_flags_for_making_masks_need_a_reference(given):
    """The message names one of those that were given; without any there is none."""
    MaskConfig(**REFERENCE).refuse_segmentation()
    with pytest.raises(UserError) as error:
        MaskConfig(**given).refuse_segmentation()
    named = str(error.value).partition(" ")[0].removeprefix("--")
    assert named in given and f"or drop --{named}" in str(error.value)


@pytest.mark.parametrize(
    ("method", "reads"), [("persam", True), ("insid3-sam", True), ("insid3", False), ("seggpt", False)]
)
def test_a_sam_that_no_method_reads_is_refused(method, reads):
    MaskConfig(segmentation_method=method).refuse_idle_sam()  # the default one is not refused
    config = MaskConfig(segmentation_method=method, sam="facebook/sam-vit-base")
    if reads:
        config.refuse_idle_sam()
    else:
        with pytest.raises(UserError, match=f"--sam has no effect on --segmentation_method {method}"):
            config.refuse_idle_sam()
