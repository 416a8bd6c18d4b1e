"""An export or import killed at any write leaves nothing half-written, and can be run again."""

import shutil

import numpy as np
import pytest

from persam_dreambooth.cli import main
from persam_dreambooth.photos import files
from tests.formats.albums import tree, write_pair
from tests.kills import KILLED, killed_at

pytestmark = pytest.mark.usefixtures("one_thread")


def kept(folder):
    """Return the digest of every file and the name of every folder, except hidden leftovers."""
    return {name: digest for name, digest in tree(folder).items() if ".unfinished-" not in name}


def kill_at_every_write(argv, around, output, wanted):
    """Kill a command at its first write, its second, and so on until it succeeds; run it again each time."""
    before = kept(around)
    for number in range(1000):
        code = killed_at(number, argv)
        if code != KILLED:
            break
        there = {name: digest for name, digest in kept(around).items() if name not in before}
        assert all(before[name] == digest for name, digest in kept(around).items() if name in before)
        assert there == {} or there.keys() == wanted.keys(), number
        if not there:
            assert main([str(word) for word in argv]) == 0
            assert tree(around).keys() == before.keys() | wanted.keys()  # what the killed call left is gone
        assert kept(around).keys() == before.keys() | wanted.keys()
        shutil.rmtree(output)
    assert code == 0 and number > 8
    assert kept(around).keys() == before.keys() | wanted.keys()


@pytest.fixture
def album(tmp_path):
    """A photo with its mask and its caption."""
    mask = np.zeros((8, 6), bool)
    mask[2:6, 1:4] = True
    write_pair(tmp_path / "album", mask)
    (tmp_path / "album" / "photos" / "dog.txt").write_text("a sks dog\n")
    return tmp_path / "album"


@pytest.mark.parametrize("verb", ["export", "import"])
def test_exports_and_imports_are_complete_or_absent(verb, album, tmp_path):
    argv = ["export", "--to", "imagefolder", "--images", album / "photos", "--masks", album / "masks"]
    output = tmp_path / "there"
    if verb == "import":
        assert main([str(word) for word in [*argv, "--output", output]]) == 0
        argv, output = ["import", "--from", "imagefolder", "--input", output], tmp_path / "back"
    argv += ["--output", output]
    assert main([str(word) for word in argv]) == 0
    wanted = {f"{output.name}/{name}": digest for name, digest in tree(output).items()} | {output.name: ""}
    shutil.rmtree(output)
    kill_at_every_write(argv, tmp_path, output, wanted)


def test_interrupted_in_place_export_is_completed_by_next_run(album, tmp_path):
    for name in ("cat", "cow"):
        shutil.copy(album / "photos" / "dog.png", album / "photos" / f"{name}.png")
        shutil.copy(album / "masks" / "dog.png", album / "masks" / f"{name}.png")
    argv = ["export", "--to", "onetrainer", "--in_place", "--images", album / "photos", "--masks", album / "masks"]
    before = tree(album)
    for number in range(1000):
        if killed_at(number, argv) != KILLED:
            break
        after = kept(album)
        assert all(after[name] == digest for name, digest in before.items())
        masks = [f"photos/{name}-masklabel.png" for name in ("cat", "cow", "dog")]
        assert "photos/onetrainer.json" not in after or all(name in after for name in masks)
        pictures = [path for path in (album / "photos").iterdir() if path.is_file() and path.suffix == ".png"]
        assert not [path for path in pictures if path.name.startswith(".")]
        for path in (album / "photos").glob("*-masklabel.png"):
            assert files.read_mask(path).any()
        assert main([str(word) for word in argv]) == 0
        assert kept(album).keys() == before.keys() | {*masks, "photos/onetrainer.json"}
        for name in (*masks, "photos/onetrainer.json"):
            (album / name).unlink()
    assert number > 8
