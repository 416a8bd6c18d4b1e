"""`generate` and `evaluate generation` killed at any write: the next call gives the same result."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from persam_dreambooth.cli import main
from persam_dreambooth.preprocessing.mask_store import SUBJECT_NAME
from tests.evaluation.generation.conftest import argv
from tests.evaluation.generation.test_running import assert_close, read_metrics
from tests.kills import put_back, states_of_kills, tree


def assert_same_pictures(folder, wanted):
    assert tree(folder).keys() == tree(wanted).keys()
    for path in wanted.rglob("*.png"):
        with Image.open(path) as actual, Image.open(folder / path.relative_to(wanted)) as expected:
            assert actual.text == expected.text
            np.testing.assert_allclose(np.int16(actual), np.int16(expected), atol=1)


def resume_each(command, output, tmp_path):
    """Resume from each state that a kill can leave; yield an uninterrupted run to compare with."""
    *states, whole = states_of_kills(lambda: main(command), output, tmp_path / "states")
    for state in states:
        put_back(state, output)
        assert main(command) == 0, state
        yield whole


def test_generate(generators, tmp_path):
    output = tmp_path / "out"
    flags = {"model": generators / "one", "prompt": "a dog", "num_images": 2, "num_inference_steps": 1}
    flags |= {"output": output, "height": 32, "width": 32, "device": "cpu"}
    command = ["generate", *(str(word) for name, value in flags.items() for word in (f"--{name}", value))]
    ended = 0
    for whole in resume_each(command, output, tmp_path):
        assert_same_pictures(output, whole)
        ended += 1
    assert ended > 3


def test_evaluate_generation(options, subject, tmp_path):
    (tmp_path / "prompts.txt").write_text("a dog [in the snow]")
    for kind in ("photos", "masks"):
        (tmp_path / kind).mkdir()
        shutil.copy(subject / kind / "0.png", tmp_path / kind)
        options["instance_data_dir" if kind == "photos" else "instance_mask_dir"] = [str(tmp_path / kind)]
    options |= {"model": options["model"][:1], "prompts": [str(tmp_path / "prompts.txt")], "num_images": ["1"]}
    options |= {"class_images": ["1"], "dino_model": ["none"]}
    output, ended = Path(options["output"][0]), 0
    for whole in resume_each(argv(options), output, tmp_path):
        assert_same_pictures(output, whole)
        assert_close(read_metrics(options), read_metrics({"output": [str(whole)]}))
        assert (output / "models/one/found" / SUBJECT_NAME).stat().st_size
        pages = [(folder / "report.html").read_text().count("data:image") for folder in (output, whole)]
        assert pages[0] == pages[1] > 0
        ended += 1
    assert ended > 20
