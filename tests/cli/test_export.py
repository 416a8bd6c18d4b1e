"""`export` as a command: what it writes, prints and leaves out."""

import subprocess
import sys

import pytest
from PIL import Image

from persam_dreambooth.cli.export import ExportFlags
from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, write_manifest
from tests.formats.albums import NAMES, write_album
from tests.kills import tree
from tests.scene import scene


def test_export_takes_its_old_flag():
    given = ["--to", "kohya", "--masks", "m", "--output", "o"]
    assert parse([ExportFlags], [*given, "--include_doubtful"], "export", "")[0].include_uncertain


@pytest.fixture
def album(tmp_path):
    write_album(tmp_path / "album")
    return tmp_path / "album"


def test_uncertain_photos_are_left_out_and_named(tmp_path, command):
    entries = []
    for number, (name, verdict) in enumerate({"dog": "found", "sofa": "not found"}.items()):
        pixels, disc = scene(20, 30, number)
        photo, mask = tmp_path / "photos" / f"{name}.png", tmp_path / "out" / "masks" / f"{name}.png"
        files.write_picture(Image.fromarray(pixels), photo)
        files.write_mask(disc, mask)
        known = {"presence": verdict, "reason": "too red", "mask_digest": files.digest(mask)}
        entries.append(ManifestEntry(f"../photos/{name}.png", files.digest(photo), **known))
    write_manifest(tmp_path / "out" / MANIFEST_NAME, entries)
    export = ("export", "--to", "kohya", "--masks", tmp_path / "out", "--output")
    code, printed, _ = command(*export, tmp_path / "a")
    assert code == 0
    assert "left out: the subject in sofa.png: not found, too red" in printed
    assert [path.name for path in (tmp_path / "a" / "images").iterdir()] == ["dog.png"]
    _, printed, _ = command(*export, tmp_path / "b", "--include_uncertain")
    assert "left out" not in printed
    assert len(list((tmp_path / "b" / "images").iterdir())) == 2
    before = tree(tmp_path)
    code, _, error = command("export", "--to", "onetrainer", "--masks", tmp_path / "out", "--in_place")
    assert code == 2
    assert "sofa.png" in error and "trains on all of a photo" in error
    assert tree(tmp_path) == before


def test_in_place_export_writes_masks_next_to_photos(album, command):
    given = ("--images", album / "photos", "--masks", album / "masks")
    code, printed, _ = command("export", "--to", "onetrainer", *given, "--in_place")
    assert code == 0
    assert "onetrainer.json" in printed
    assert len(list((album / "photos").glob("*-masklabel.png"))) == len(NAMES)


def test_invalid_input_ends_process_with_code_2(album, tmp_path):
    (album / "masks" / "scan.png").rename(album / "masks" / "foreign.png")
    given = ["--images", album / "photos", "--masks", album / "masks", "--output", tmp_path / "out"]
    run = [sys.executable, "-m", "persam_dreambooth.cli", "export", "--to", "kohya", *given]
    result = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert "scan.tif has no mask" in result.stderr and "foreign.png has no photo" in result.stderr
    assert not (tmp_path / "out").exists()
