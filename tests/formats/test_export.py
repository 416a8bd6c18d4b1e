"""An export is complete or absent, leaves its source alone, and lists all problems when it refuses."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats import CONVENTIONS, export_beside, export_folder, import_folder, read_selection
from persam_dreambooth.formats.layouts import Given
from persam_dreambooth.photos import files
from tests.formats.albums import NAMES, masks_in, write_album, write_pair
from tests.kills import tree

EVERY = pytest.mark.parametrize("trainer", CONVENTIONS)
ONETRAINER = CONVENTIONS["onetrainer"]


@pytest.fixture
def album(tmp_path):
    write_album(tmp_path / "album")
    return tmp_path / "album"


def source(album):
    return read_selection(album / "masks", album / "photos")


def refused(album, export, *arguments):
    """Return the error of a refused export, after checking that nothing was written."""
    pairs, before = source(album), tree(album.parent)
    with pytest.raises(UserError) as error:
        export(pairs, *arguments)
    assert tree(album.parent) == before
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@EVERY
def test_masks_of_wrong_size_and_broken_photos_are_listed(trainer, album, tmp_path):
    for name in ("test", "scan"):
        files.write_mask(np.ones((7, 77), bool), album / "masks" / f"{name}.png")
    (album / "photos" / "grey.png").write_bytes(b"no photo")
    line = refused(album, export_folder, CONVENTIONS[trainer], tmp_path / "out")
    assert all(part in line for part in ("test.png is 77 x 7 pixels", "scan.png is 77 x 7", "grey.png cannot be"))


def test_mask_of_stored_instead_of_upright_photo_has_wrong_size(album, tmp_path):
    path = album / "masks" / "turned.png"
    files.write_mask(files.read_mask(path).T, path)
    assert "turned.jpg" in refused(album, export_folder, CONVENTIONS["kohya"], tmp_path / "out")


@EVERY
def test_names_that_are_not_utf_8_are_listed(trainer, album, tmp_path):
    for name in (b"k\xe4se.png", b"k\xe4se 2.png"):
        write_pair(album, np.ones((4, 4), bool), os.fsdecode(name))
    line = refused(album, export_folder, CONVENTIONS[trainer], tmp_path / "out")
    assert line.count("are not UTF-8") == 2


def test_folder_that_configuration_cannot_contain_is_refused(album, tmp_path):
    odd = tmp_path / os.fsdecode(b"k\xe4se")
    line = refused(album, export_folder, CONVENTIONS["kohya"], odd / "out")
    assert "out has bytes that are not UTF-8; rename it" in line
    assert export_folder(source(album), CONVENTIONS["cutout"], odd / "out").count == len(
        NAMES
    )  # it has no configuration
    album = album.rename(odd / "album")
    assert "has bytes that are not UTF-8; rename it" in refused(album, export_beside, ONETRAINER)


@pytest.mark.parametrize("ending", ["-masklabel", "-condlabel"])
def test_names_that_trainer_reserves_are_listed(album, tmp_path, ending):
    for name in ("one", "two"):
        Image.new("RGB", (4, 4)).save(album / "photos" / f"{name}{ending}.jpg")
        files.write_mask(np.ones((4, 4), bool), album / "masks" / f"{name}{ending}.png")
    line = refused(album, export_folder, ONETRAINER, tmp_path / "out")
    assert f"one{ending}.jpg" in line and f"two{ending}.jpg" in line
    line = refused(album, export_beside, ONETRAINER)
    assert f"one{ending}.jpg" in line and f"two{ending}.jpg" in line
    assert export_folder(source(album), CONVENTIONS["kohya"], tmp_path / "out").count == len(NAMES) + 2


def test_output_folder_in_use_is_refused(album, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    assert "not empty" in refused(album, export_folder, ONETRAINER, tmp_path / "used")
    assert "is a file" in refused(album, export_folder, ONETRAINER, tmp_path / "used" / "mine.txt" / "deeper")
    for inside in ("photos", "masks"):
        assert "not written to" in refused(album, export_folder, ONETRAINER, album / inside / "out")


def test_empty_output_folder_is_used_and_gets_ordinary_permissions(album, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "plain").mkdir()
    export_folder(source(album), ONETRAINER, tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "out", "plain"]


def test_full_disk_leaves_nothing(album, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    before = tree(tmp_path)
    with pytest.raises(OSError, match="No space"):
        export_folder(source(album), ONETRAINER, tmp_path / "out")
    assert tree(tmp_path) == before


def test_photos_without_caption_get_instance_prompt(album, tmp_path):
    assert len(export_folder(source(album), ONETRAINER, tmp_path / "without").without_words) == len(NAMES) - 2
    exported = export_folder(source(album), ONETRAINER, tmp_path / "with", "a sks dog")
    assert exported.without_words == []
    words = [path.read_text().strip() for path in (tmp_path / "with" / "images").glob("*.txt")]
    assert len(words) == len(NAMES)
    assert words.count("a sks dog") == len(NAMES) - 2


# Beside the photos


def test_in_place_export_adds_only_masks_and_configuration(album):
    before = tree(album)
    exported = export_beside(source(album), ONETRAINER)
    after = tree(album)
    masks = {f"photos/{stem}-masklabel.png" for stem in masks_in(album / "masks")}
    assert after.keys() - before.keys() == masks | {"photos/onetrainer.json"}
    assert {name: after[name] for name in before} == before
    (concept,) = json.loads(exported.config.read_text(encoding="utf-8"))["concepts"]
    assert concept["path"] == str(album / "photos")


def test_masks_next_to_photos_are_imported(album, tmp_path):
    export_beside(source(album), ONETRAINER)
    import_folder(ONETRAINER, Given(album / "photos"), tmp_path / "back")
    for stem, mask in masks_in(album / "masks").items():
        np.testing.assert_array_equal(files.read_mask(tmp_path / "back" / "masks" / f"{stem}.png"), mask)


@pytest.mark.parametrize("trainer", [name for name in CONVENTIONS if name != "onetrainer"])
def test_trainers_that_need_separate_folders_are_refused_in_place(trainer, album):
    assert "--output" in refused(album, export_beside, CONVENTIONS[trainer])


def test_in_place_export_replaces_nothing(album):
    pairs = source(album)
    for name in ("test-masklabel.png", "onetrainer.json"):
        (album / "photos" / name).write_bytes(b"mine")
    before = tree(album)
    with pytest.raises(UserError, match=r"test-masklabel.png already exists; .*onetrainer.json already exists"):
        export_beside(pairs, ONETRAINER)
    assert tree(album) == before


def test_onetrainer_masks_next_to_photos_are_not_photos(album):
    pairs = source(album)
    for name in ("test-condlabel.png", "gone-masklabel.png"):
        Image.new("L", (4, 4)).save(album / "photos" / name)
    assert export_beside(pairs, ONETRAINER).count == len(NAMES)


def test_photos_that_would_be_left_without_mask_are_listed(album):
    pairs = source(album)
    for name in ("late.png", "later.png"):
        Image.new("RGB", (4, 4)).save(album / "photos" / name)
    before = tree(album)
    with pytest.raises(UserError, match=r"late.png, later.png"):
        export_beside(pairs, ONETRAINER)
    assert tree(album) == before


def test_mask_of_wrong_size_leaves_photos_folder_unchanged(album):
    files.write_mask(np.ones((7, 77), bool), album / "masks" / "turned.png")
    assert "turned.jpg" in refused(album, export_beside, ONETRAINER)
