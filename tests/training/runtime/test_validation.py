"""Validation pictures: each prompt with its seeds, the same pictures as `generate` draws."""

from pathlib import Path

import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler
from PIL import Image

from persam_dreambooth import generation
from persam_dreambooth.training.runtime import validation
from tests.training.runs import train

PROMPTS = ["a sks dog", "a sks dog in the snow", "a dog"]


def test_prompts_of_flag_and_file_are_drawn_with_step_and_seed(flags):
    Path("prompts.txt").write_text(f"# scenes\n{PROMPTS[1]}\n\n  {PROMPTS[0]}\n{PROMPTS[2]}\n")
    drawn = {"validation_prompt": PROMPTS[0], "validation_prompts_file": "prompts.txt"}
    drawn |= {"num_validation_images": 2, "validation_steps": 2, "seed": 7}
    assert train(flags, **drawn) == 0
    folder = Path("output/validation")
    expected = {f"step-{step:06}-{n}-{seed}.png" for step in (2, 4) for n in (1, 2, 3) for seed in (7, 8)}
    assert {path.name for path in folder.iterdir()} == expected
    card = Path("output/README.md").read_text()
    assert all(f"*{prompt}*" in card for prompt in PROMPTS)
    pipeline = generation.load_pipeline("output", device="cpu")
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    size = {"height": 32, "width": 32, "num_inference_steps": validation.INFERENCE_STEPS}
    for number, prompt in enumerate(PROMPTS, start=1):
        for seed in (7, 8):
            picture = Image.open(folder / f"step-000004-{number}-{seed}.png")
            assert picture.text == {"prompt": prompt, "seed": str(seed), "step": "4"}
            again = generation.draw(pipeline, prompt, seed, **size).image
            np.testing.assert_allclose(np.asarray(picture, int), np.asarray(again, int), atol=1)
    before = [np.asarray(Image.open(folder / f"step-00000{step}-1-7.png")) for step in (2, 4)]
    assert (before[0] != before[1]).any()


@pytest.mark.parametrize(("content", "reason"), [(None, "check the path"), ("# nothing\n", "holds no prompt")])
def test_file_without_prompts_is_refused_before_anything_is_written(flags, content, reason, capsys):
    if content is not None:
        Path("prompts.txt").write_text(content)
    assert train(flags, validation_prompts_file="prompts.txt") == 2
    assert reason in capsys.readouterr().err and not Path("output").exists()


def test_cut_prompt_of_the_file_is_named(flags, caplog):
    Path("prompts.txt").write_text("a sks dog " + "very " * 100)
    more = {"validation_prompts_file": "prompts.txt", "num_validation_images": 1, "max_train_steps": 1}
    assert train(flags, **more) == 0
    assert "the validation prompt 'a sks dog very" in caplog.text and "cut off" in caplog.text
