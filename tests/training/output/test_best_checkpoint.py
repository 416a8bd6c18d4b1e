"""`--choose_checkpoint`: what is refused before the first step, and a failure that is only a warning."""

import shlex
from pathlib import Path

import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.output import best_checkpoint
from tests.scene import scene
from tests.training.data.test_concepts import draw
from tests.training.data.test_remarks import new_warnings
from tests.training.small import configure

pytestmark = pytest.mark.usefixtures("process_state")


def configured(folder, prompt="a sks dog", **output):
    data = {"instance_data_dir": str(folder / "photos"), "instance_prompt": prompt, "class_prompt": "a dog"}
    config = configure(
        "base",
        data=data,
        mask={"instance_mask_dir": str(folder / "masks")},
        output={"output_dir": str(folder / "my output")} | output,
    )
    return config, Concept.of(config)


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    draw(tmp_path, ["a"])
    best_checkpoint.check(*configured(tmp_path), shares_weights=False)
    with pytest.raises(UserError, match="cannot read FSDP's checkpoints"):
        best_checkpoint.check(*configured(tmp_path), shares_weights=True)
    with pytest.raises(UserError, match="draws prompts with the identifier and the class"):
        best_checkpoint.check(*configured(tmp_path, prompt="a dog"), shares_weights=False)
    (tmp_path / "photos" / "a.png").rename(tmp_path / "a.png")
    (tmp_path / "photos" / "3_sks dog").mkdir()
    with pytest.raises(UserError, match="compares with one folder of photos"):
        best_checkpoint.check(*configured(tmp_path), shares_weights=False)


@pytest.mark.parametrize(
    ("every", "limit", "steps", "enough"),
    [
        (100, None, 99, False),
        (100, None, 100, False),  # the checkpoint is the result
        (100, None, 101, True),
        (100, None, 200, True),
        (100, 1, 200, False),
        (100, 1, 201, True),
        (100, 2, 200, True),
    ],
)
def test_two_models_are_needed_to_choose(tmp_path, every, limit, steps, enough):
    config, _ = configured(tmp_path, checkpointing_steps=every, checkpoints_total_limit=limit)
    if enough:
        assert best_checkpoint.check_number(config, steps) is None
        return
    with pytest.raises(UserError, match=f"--checkpointing_steps {every} leaves one model of {steps} steps"):
        best_checkpoint.check_number(config, steps)


def test_failure_is_a_warning_with_the_command_to_try_again(tmp_path, caplog):
    draw(tmp_path, ["a"])
    files.write_mask(scene(40, 48)[1], tmp_path / "masks" / "masks" / "a.png")  # as segment's output
    config, concept = configured(tmp_path)
    assert best_checkpoint.choose(config, concept, torch.device("cpu")) is None
    (line,) = new_warnings(caplog)
    assert "the training is complete, but its checkpoints could not be compared (" in line
    words = shlex.split(line.partition("try again: ")[2])
    assert words[:3] == ["persam-dreambooth", "evaluate", "checkpoints"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert Path(given["--run"]) == tmp_path / "my output" and given["--device"] == "cpu"
    assert Path(given["--instance_mask_dir"]) == tmp_path / "masks" / "masks"
    assert int(given["--class_images"]) == 2 * int(given["--num_images"])
