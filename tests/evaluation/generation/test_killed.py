"""`generate` and `evaluate generation` killed at any write: the next call gives the same result."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from persam_dreambooth.atomic_io import UNFINISHED
from persam_dreambooth.cli import main
from persam_dreambooth.preprocessing.mask_store import SUBJECT_NAME
from tests.evaluation.generation.conftest import argv
from tests.evaluation.generation.test_evaluate_generation import assert_close, read_metrics

WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod")


class _Observer:
    """Copies a folder before each write in it: the state left by a kill at that point."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        sys.addaudithook(self._look)

    def _look(self, event: str, args: tuple) -> None:
        if self.folder is None or not args or not str(args[0]).startswith(str(self.folder)):
            return
        if event in WRITES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)):
            folder, self.folder = self.folder, None  # copying must not trigger the hook
            self._keep(folder)
            self.folder = folder

    def _keep(self, folder: Path) -> None:
        entries = tree(folder).items()
        unfinished, finished = (
            {entry for entry in entries if (UNFINISHED in entry[0]) == partial} for partial in (True, False)
        )
        state = frozenset(finished | {(name.split(UNFINISHED)[0], "") for name, _ in unfinished})
        if state not in self.states:
            self.states[state] = self.copies / str(len(self.states))
            if folder.exists():
                shutil.copytree(folder, self.states[state])

    def run(self, command: list[str], folder: Path, copies: Path) -> list[Path]:
        """Run a command; return the distinct states of its folder, the first of which may be absent."""
        self.states: dict[frozenset, Path] = {}
        self.copies, self.folder = copies, folder
        try:
            assert main(command) == 0
        finally:
            self.folder = None
        return list(self.states.values())


OBSERVER = _Observer()  # an audit hook cannot be removed


def tree(folder):
    """Return the digests of all files, and all folders, by name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def assert_same_pictures(folder, wanted):
    assert tree(folder).keys() == tree(wanted).keys()
    for path in wanted.rglob("*.png"):
        with Image.open(path) as actual, Image.open(folder / path.relative_to(wanted)) as expected:
            assert actual.text == expected.text
            np.testing.assert_allclose(np.int16(actual), np.int16(expected), atol=1)


def resume_each(command, output, tmp_path):
    """Resume from each state that a kill can leave; yield an uninterrupted run to compare with."""
    states = OBSERVER.run(command, output, tmp_path / "states")
    whole = output.rename(tmp_path / "whole")
    for state in states:
        if state.exists():
            shutil.copytree(state, output)
        assert main(command) == 0, state
        yield whole
        shutil.rmtree(output)


def test_generate(generators, tmp_path):
    output = tmp_path / "out"
    flags = {"model": generators / "one", "prompt": "a dog", "num_images": 2, "num_inference_steps": 1}
    flags |= {"output": output, "height": 32, "width": 32, "device": "cpu"}
    command = ["generate", *(str(word) for name, value in flags.items() for word in (f"--{name}", value))]
    ended = 0
    for whole in resume_each(command, output, tmp_path):
        assert_same_pictures(output, whole)
        ended += 1
    assert ended > 6


def test_evaluate_generation(options, subject, tmp_path):
    (tmp_path / "prompts.txt").write_text("a dog [in the snow]")
    for kind in ("photos", "masks"):
        (tmp_path / kind).mkdir()
        shutil.copy(subject / kind / "0.png", tmp_path / kind)
        options["instance_data_dir" if kind == "photos" else "instance_mask_dir"] = [str(tmp_path / kind)]
    options |= {"model": options["model"][:1], "prompts": [str(tmp_path / "prompts.txt")], "num_images": ["1"]}
    options |= {"num_inference_steps": ["1"], "dino_model": ["none"]}
    output, ended = Path(options["output"][0]), 0
    for whole in resume_each(argv(options), output, tmp_path):
        assert_same_pictures(output, whole)
        assert_close(read_metrics(options), read_metrics({"output": [str(whole)]}))
        assert (output / "models/one/found" / SUBJECT_NAME).stat().st_size
        pages = [(folder / "report.html").read_text().count("data:image") for folder in (output, whole)]
        assert pages[0] == pages[1] > 0
        ended += 1
    assert ended > 20
