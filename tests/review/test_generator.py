"""Pictures at the page's request: one request at a time, each into a folder of its own."""

import shutil
import time

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.review.generator import Generator

SMALL = {"num_inference_steps": 1, "height": 32, "width": 32}


def finished(generator):
    while generator.running:
        time.sleep(0.01)
    return generator.error


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (("  ", 1, 0), "no prompt"),
        (("a dog", 0, 0), "1 to 16 images"),
        (("a dog", 99, 0), "1 to 16 images"),
        (("a dog", 1, 2**63), "must lie in"),
    ],
)
def test_invalid_request_is_refused(tmp_path, order, reason):
    with pytest.raises(UserError, match=reason):
        Generator("cpu").start(tmp_path, *order, num_inference_steps=1)


def test_each_request_has_its_folder_and_says_how_far_it_is(models, tmp_path):
    run, generator = shutil.copytree(models / "stable-diffusion", tmp_path / "run"), Generator("cpu")
    for count, seed in ((2, 7), (1, 9)):
        generator.start(run, "a dog", count, seed, **SMALL)
        assert generator.wanted == count and finished(generator) is None and generator.done == count
    drawn = run / "generated"
    assert sorted(path.relative_to(drawn).as_posix() for path in drawn.glob("*/*")) == [
        *("001/a-dog-7.png", "001/a-dog-8.png", "001/grid.png"),
        *("002/a-dog-9.png", "002/grid.png"),
    ]
    words = files.picture_texts(drawn / "002" / "a-dog-9.png")
    assert (words["prompt"], words["seed"], words["model"], words["num_inference_steps"]) == ("a dog", "9", "run", "1")


def test_failure_is_kept_as_one_line_until_the_next_request(tmp_path):
    generator = Generator("cpu")
    generator.start(tmp_path, "a dog", 1, 0, **SMALL)
    error = finished(generator)
    assert str(tmp_path) in error and "\n" not in error and not (tmp_path / "generated").exists()
    with pytest.raises(UserError, match="no prompt"):
        generator.start(tmp_path, "", 1, 0)
    assert generator.error == error
