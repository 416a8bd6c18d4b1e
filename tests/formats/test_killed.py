"""An export or import killed at any write leaves nothing half-written, and can be run again."""

import shutil

import numpy as np
import pytest

from persam_dreambooth.cli import main
from persam_dreambooth.photos import files
from tests.formats.albums import write_pair
from tests.kills import put_back, states_of_kills, tree


def kept(folder):
    """Return the digest of every file and the name of every folder, except hidden leftovers."""
    return {name: digest for name, digest in tree(folder).items() if ".unfinished-" not in name}


def run(argv):
    assert main([str(word) for word in argv]) == 0


@pytest.fixture
def work(tmp_path):
    """The folder of a small `album`: a photo with its mask and its caption."""
    mask = np.zeros((8, 6), bool)
    mask[2:6, 1:4] = True
    write_pair(tmp_path / "work" / "album", mask)
    (tmp_path / "work" / "album" / "photos" / "dog.txt").write_text("a sks dog\n")
    return tmp_path / "work"


@pytest.mark.parametrize("verb", ["export", "import"])
def test_exports_and_imports_are_complete_or_absent(verb, work, tmp_path):
    album, output = work / "album", work / "exported"
    argv = ["export", "--to", "imagefolder", "--images", album / "photos", "--masks", album / "masks"]
    if verb == "import":
        run([*argv, "--output", output])
        argv, output = ["import", "--from", "imagefolder", "--input", output], work / "imported"
    argv += ["--output", output]
    before = tree(work)
    *states, finished = states_of_kills(lambda: run(argv), work, tmp_path / "states")
    complete = tree(finished)
    assert len(states) > 5
    for state in states:
        assert kept(state) in (before, complete), state
        put_back(state, work)
        if kept(state) == before:
            run(argv)
        assert kept(work) == complete, state
        if kept(state) == before:
            assert tree(work) == complete  # leftovers of the killed call are gone


def test_interrupted_in_place_export_is_completed_by_next_run(work, tmp_path):
    album = work / "album"
    for name in ("cat", "cow"):
        shutil.copy(album / "photos" / "dog.png", album / "photos" / f"{name}.png")
        shutil.copy(album / "masks" / "dog.png", album / "masks" / f"{name}.png")
    argv = ["export", "--to", "onetrainer", "--in_place", "--images", album / "photos", "--masks", album / "masks"]
    before = tree(album)
    masks = [f"photos/{name}-masklabel.png" for name in ("cat", "cow", "dog")]
    *states, finished = states_of_kills(lambda: run(argv), album, tmp_path / "states")
    complete = tree(finished)
    assert complete.keys() == before.keys() | {*masks, "photos/onetrainer.json"} and len(states) > 5
    for state in states:
        after = kept(state)
        assert after.items() >= before.items()
        assert "photos/onetrainer.json" not in after or all(name in after for name in masks)
        assert not [path for path in (state / "photos").glob("*.png") if path.name.startswith(".")]
        for path in (state / "photos").glob("*-masklabel.png"):
            assert files.read_mask(path).any()
        put_back(state, album)
        run(argv)
        assert kept(album) == complete, state
