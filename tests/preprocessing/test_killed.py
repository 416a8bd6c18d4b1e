"""A segmentation killed before any of its writes and run again equals an uninterrupted one."""

import pytest
from safetensors.torch import load_file

from persam_dreambooth.cli import main
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, newest_entries
from persam_dreambooth.preprocessing.mask_store import FOLDERS
from tests.kills import put_back, states_of_kills
from toy_photos import draw


@pytest.fixture
def album(tmp_path):
    """Two photos, and the mask of the first."""
    (tmp_path / "photos").mkdir()
    for number in range(2):
        photo, mask = draw(number)
        photo.resize((48, 40)).save(tmp_path / "photos" / f"{number}.png")
        if number == 0:
            mask.resize((48, 40)).save(tmp_path / "mask.png")
    return tmp_path


def contents(folder):
    """Return every file but the lock, by path; for weights the tensors, since the order of their header varies."""
    return {
        path.relative_to(folder).as_posix(): (
            {name: tensor.tolist() for name, tensor in load_file(path).items()}
            if path.suffix == ".safetensors"
            else path.read_bytes()
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".manifest.lock"
    }


def check_consistent(output):
    """Check that every mask has a matching manifest line; training would take others for the user's own."""
    entries = {entry.mask: entry for entry in newest_entries(output / MANIFEST_NAME) if entry.mask}
    masks = [path for path in (output / "masks").glob("*.png") if not path.name.startswith(".")]
    for path in masks:
        entry = entries.get(f"masks/{path.name}")
        assert entry is not None
        assert entry.source == "reference" or entry.mask_digest == files.digest(path)


@pytest.mark.parametrize("again", [False, True], ids=["new", "again"])
def test_run_killed_before_any_write_is_resumed(album, models, again, tmp_path):
    """`--again` runs with another reference over a finished run."""
    output = album / "out"
    argv = ["segment", "--images", album / "photos", "--reference", album / "photos" / "0.png", "--device", "cpu"]
    argv += ["--reference_mask", album / "mask.png", "--sam", models / "sam", "--output", output]
    argv = [str(word) for word in argv]
    if again:
        assert main([*argv, "--no_refinement"]) == 0
        argv.append("--again")
    *states, finished = states_of_kills(lambda: main(argv), output, tmp_path / "states")
    wanted = contents(finished)
    assert {path.split("/")[0] for path in wanted if "/" in path} == set(FOLDERS[:2])
    assert len(states) > 10
    for state in states:
        if state.exists():
            check_consistent(state)
        put_back(state, output)
        assert main(argv) == 0, state
        assert contents(output) == wanted, state
