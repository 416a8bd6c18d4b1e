"""Flags of photos and prompts: contradictions, missing ones, and the columns of a data set."""

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import DataConfig, TrainingConfig
from tests.training.flag_groups.parsed import of_flags, refusal

PHOTOS = {"instance_data_dir": "dog", "instance_prompt": "a sks dog"}
PRIOR = {"with_prior_preservation": True, "class_data_dir": "class", "class_prompt": "a dog"}


def test_switch_of_the_scripts_turns_buckets_on():
    given = {"pretrained_model_name_or_path": "base", "instance_data_dir": "dog", "instance_mask_dir": "masks"}
    given |= {"instance_prompt": "a sks dog", "use_aspect_ratio_buckets": True}
    assert TrainingConfig(**given).data.aspect_ratio_buckets == "auto"
    assert TrainingConfig(**given, aspect_ratio_buckets="32,64").data.aspect_ratio_buckets == "32,64"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resolution", "0"], "--resolution 0 must be at least 1"),
        (["--caption_dropout", "1.01"], "--caption_dropout 1.01 must lie in [0, 1]"),
        (["--prior_loss_weight", "-0.5"], "--prior_loss_weight -0.5 must be at least 0"),
        (["--dataloader_num_workers", "-1"], "--dataloader_num_workers -1 must be at least 0"),
        (["--cached_crops", "0"], "--cached_crops 0 must be at least 1"),
        (["--image_interpolation_mode", "nearest"], "nearest (choose from bilinear, bicubic, lanczos)"),
        (["--prior_generation_precision", "fp8"], "fp8 (choose from no, fp32, fp16, bf16)"),
        (["--caption_extension", "txt"], "--caption_extension txt"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_values_outside_are_refused(words, said):
    assert said in refusal(DataConfig, *words)


@pytest.mark.parametrize("photos", [{"instance_data_dir": "dog"}, {"concepts_list": "subjects.json"}])
def test_a_data_set_is_the_only_source_of_photos(photos):
    assert DataConfig(dataset_name="set").dataset_name == "set" and DataConfig(**photos)
    with pytest.raises(UserError, match="--dataset_name brings the photos; drop it, or"):
        DataConfig(dataset_name="set", **photos)


@pytest.mark.parametrize(
    "flag", ["dataset_config_name", "mask_column", "region_columns", "caption_column", "cache_dir"]
)
def test_flags_of_data_sets_need_one(flag):
    given = {flag: ["dog=a"] if flag == "region_columns" else "a"}
    assert DataConfig(dataset_name="set", **given)
    with pytest.raises(UserError, match=f"^--{flag} needs a data set; give --dataset_name, or drop it$"):
        DataConfig(**given)


def test_columns_are_by_their_words():
    """The first equals sign ends the words; spaces around them do not count."""
    config = of_flags(DataConfig, "--dataset_name", "set", "--region_columns", " sks dog =dog_mask", "cat=a=b")
    assert config.columns == {"sks dog": "dog_mask", "cat": "a=b"}
    for words in ("masks=a", ".dog=a", "a/b=a", "dog=", "=a"):
        with pytest.raises(UserError, match="words that can name a folder"):
            of_flags(DataConfig, "--dataset_name", "set", "--region_columns", words)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("instance_data_dir", "--instance_data_dir is missing"),
        ("instance_prompt", "--instance_prompt is missing"),
        ("class_data_dir", "--with_prior_preservation needs --class_data_dir"),
        ("class_prompt", "--with_prior_preservation needs --class_prompt"),
    ],
)
def test_what_is_missing_is_named(missing, said):
    DataConfig(**PHOTOS | PRIOR).check_photos()
    with pytest.raises(UserError, match=said):
        DataConfig(**PHOTOS | PRIOR | {missing: None}).check_photos()


def test_prompts_may_come_from_elsewhere(tmp_path):
    """From caption files, a column, or the names of kohya's folders."""
    DataConfig(instance_data_dir="dog", caption_extension=".txt").check_photos()
    DataConfig(dataset_name="set", caption_column="text").check_photos()
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="--instance_prompt is missing"):
        DataConfig(instance_data_dir=str(tmp_path)).check_photos()
    (tmp_path / "10_sks dog").mkdir()
    DataConfig(instance_data_dir=str(tmp_path)).check_photos()
