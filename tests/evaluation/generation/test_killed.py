"""Guards `generate` and `evaluate generation` against a kill at any of their writes: the next call ends the same."""

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
    """Keeps a copy of a folder as it is before each write in it: what is there if the process is killed then."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        sys.addaudithook(self._look)

    def _look(self, event: str, args: tuple) -> None:
        if self.folder is None or not args or not str(args[0]).startswith(str(self.folder)):
            return
        if event in WRITES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)):
            folder, self.folder = self.folder, None  # copies are no writes of the command's
            self._keep(folder)
            self.folder = folder

    def _keep(self, folder: Path) -> None:
        there = tree(folder).items()
        unfinished, finished = ({one for one in there if (UNFINISHED in one[0]) == is_one} for is_one in (True, False))
        state = frozenset(finished | {(name.split(UNFINISHED)[0], "") for name, _ in unfinished})
        if state not in self.states:
            self.states[state] = self.copies / str(len(self.states))
            if folder.exists():
                shutil.copytree(folder, self.states[state])

    def run(self, command: list[str], folder: Path, copies: Path) -> list[Path]:
        """Run a command; returns the different states of its folder, of which the first may be absent."""
        self.states: dict[frozenset, Path] = {}
        self.copies, self.folder = copies, folder
        try:
            assert main(command) == 0
        finally:
            self.folder = None
        return list(self.states.values())


OBSERVER = _Observer()  # a hook stays for the process's life


def tree(folder):
    """Every file's digest and every folder, by name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def assert_same_pictures(folder, wanted):
    assert tree(folder).keys() == tree(wanted).keys()
    for path in wanted.rglob("*.png"):
        with Image.open(path) as one, Image.open(folder / path.relative_to(wanted)) as other:
            assert one.text == other.text
            np.testing.assert_allclose(np.int16(one), np.int16(other), atol=1)


def end_each(command, output, tmp_path):
    """The state after a whole run, and after each that was killed and called again."""
    states = OBSERVER.run(command, output, tmp_path / "states")
    whole = output.rename(tmp_path / "whole")
    for state in states:
        if state.exists():
            shutil.copytree(state, output)
        assert main(command) == 0, state
        yield whole
        shutil.rmtree(output)


def test_generate(drawers, tmp_path):
    output = tmp_path / "out"
    flags = {"model": drawers / "one", "prompt": "a dog", "num_images": 2, "num_inference_steps": 1, "output": output}
    flags |= {"height": 32, "width": 32, "device": "cpu"}
    command = ["generate", *(str(word) for name, value in flags.items() for word in (f"--{name}", value))]
    ended = 0
    for whole in end_each(command, output, tmp_path):
        assert_same_pictures(output, whole)
        ended += 1
    assert ended > 6


def test_evaluate_generation(words, subject, tmp_path):
    (tmp_path / "prompts.txt").write_text("a dog [in the snow]")
    for kind in ("photos", "masks"):
        (tmp_path / kind).mkdir()
        shutil.copy(subject / kind / "0.png", tmp_path / kind)
        words["instance_data_dir" if kind == "photos" else "instance_mask_dir"] = [str(tmp_path / kind)]
    words |= {"model": words["model"][:1], "prompts": [str(tmp_path / "prompts.txt")], "num_images": ["1"]}
    words |= {"num_inference_steps": ["1"], "dino_model": ["none"]}
    output, ended = Path(words["output"][0]), 0
    for whole in end_each(argv(words), output, tmp_path):
        assert_same_pictures(output, whole)
        assert_close(read_metrics(words), read_metrics({"output": [str(whole)]}))
        assert (output / "models/one/found" / SUBJECT_NAME).stat().st_size
        pages = [(folder / "report.html").read_text().count("data:image") for folder in (output, whole)]
        assert pages[0] == pages[1] > 0
        ended += 1
    assert ended > 20
