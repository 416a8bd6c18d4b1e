"""Flags of validation pictures: the prompts that are drawn, from the flag and the file."""

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import ValidationConfig
from tests.training.flag_groups.parsed import refusal


def test_prompt_of_the_last_images():
    assert ValidationConfig().last_prompts == []
    assert ValidationConfig(validation_prompt="a").last_prompts == ["a"]
    assert ValidationConfig(final_validation_prompt="b").last_prompts == ["b"]
    assert ValidationConfig(validation_prompt="a", skip_final_inference=True).last_prompts == []


def test_file_alone_is_enough(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a sks dog\n")
    config = ValidationConfig(validation_prompts_file=str(path))
    assert config.prompts == config.last_prompts == ["a sks dog"]
    assert ValidationConfig().prompts == []
    with pytest.raises(UserError, match="final_validation_prompt and --validation_prompts_file exclude each other"):
        ValidationConfig(validation_prompts_file=str(path), final_validation_prompt="a dog")


def test_prompts_are_the_flags_then_the_files_each_once(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# scenes\n\n  a dog on snow \na sks dog\na dog on snow\na #1 dog\n")
    config = ValidationConfig(validation_prompt="a sks dog", validation_prompts_file=str(path))
    assert config.prompts == config.all_prompts == ["a sks dog", "a dog on snow", "a #1 dog"]
    assert ValidationConfig(final_validation_prompt="a cat").all_prompts == ["a cat"]
    assert ValidationConfig(final_validation_prompt="a cat").prompts == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"validation_prompt": "a dog"}, "--final_validation_prompt and --validation_prompt exclude"),
        ({"skip_final_inference": True}, "--final_validation_prompt and --skip_final_inference exclude"),
    ],
)
def test_a_prompt_for_the_end_alone_excludes_others(given, said):
    assert ValidationConfig(**given)
    with pytest.raises(UserError, match=said):
        ValidationConfig(final_validation_prompt="a sks dog", **given)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num_validation_images", "0"], "--num_validation_images 0 must be at least 1"),
        (["--validation_steps", "0"], "--validation_steps 0 must be at least 1"),
        (["--validation_epochs", "0"], "--validation_epochs 0 must be at least 1"),
        (["--validation_scheduler", "DDIMScheduler"], "DDIMScheduler (choose from DPMSolverMultistepScheduler,"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_values_outside_are_refused(words, said):
    assert said in refusal(ValidationConfig, *words)
