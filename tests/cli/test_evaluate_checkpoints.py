"""Flags of `evaluate checkpoints`: the run alone is enough, and what makes no sense is refused."""

import pytest

from persam_dreambooth.cli.evaluate_checkpoints import CheckpointFlags
from persam_dreambooth.errors import UserError


def test_run_is_enough_and_needed():
    flags = CheckpointFlags(run="dog")
    assert (flags.prompts, flags.output, flags.steps, flags.instance_data_dir) == ("scenes", None, [], None)
    with pytest.raises(UserError, match="--run is missing"):
        CheckpointFlags()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": ["200", "-4"]}, "--steps 200 -4 must be numbers, such as 200 400"),
        ({"steps": ["last"]}, "--steps last must be numbers"),
        ({"instance_data_dir": "dog"}, "--instance_data_dir and --instance_mask_dir belong together"),
        ({"instance_mask_dir": "masks"}, "--instance_data_dir and --instance_mask_dir belong together"),
        ({"num_inference_steps": 0}, "--num_inference_steps 0 must be at least 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(changes, words):
    CheckpointFlags(run="dog", steps=["200", "400"], instance_data_dir="dog", instance_mask_dir="masks")
    with pytest.raises(UserError, match=words):
        CheckpointFlags(run="dog", **changes)


def test_folder_without_checkpoints_is_one_line(error_of, tmp_path):
    assert str(tmp_path) in error_of("evaluate", "checkpoints", "--run", tmp_path, "--device", "cpu")
    assert not list(tmp_path.iterdir())
