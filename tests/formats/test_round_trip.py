"""Masks, photos and captions exported for a trainer and imported again are unchanged."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from persam_dreambooth.formats import CONVENTIONS, export_folder, import_folder, read_selection
from persam_dreambooth.formats.layouts import Given
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from tests.formats.albums import (
    CAPTIONS,
    NAMES,
    PLAIN,
    captions_in,
    masks_in,
    photos_in,
    write_album,
    write_pair,
)
from tests.kills import tree

EVERY = pytest.mark.parametrize("trainer", CONVENTIONS)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """An album with everything that goes wrong between programs."""
    folder = tmp_path_factory.mktemp("album")
    write_album(folder)
    return folder


def there_and_back(photos, masks, trainer, folder):
    """Export and import again; return the folder of the import."""
    convention = CONVENTIONS[trainer]
    export_folder(read_selection(masks, photos), convention, folder / "there")
    import_folder(convention, Given(folder / "there"), folder / "back")
    return folder / "back"


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for stem, values in expected.items():
        np.testing.assert_array_equal(found[stem], values, err_msg=stem)


@EVERY
def test_album_survives_round_trip(trainer, album, tmp_path):
    before = tree(album)
    back = there_and_back(album / "photos", album / "masks", trainer, tmp_path)
    assert tree(album) == before
    masks, photos = masks_in(album / "masks"), photos_in(album / "photos")
    assert_same(masks_in(back / "masks"), masks)
    found = photos_in(back / "images")
    if trainer == "cutout":  # the background is gone
        photos = {stem: np.where(masks[stem][..., None], photo, 255) for stem, photo in photos.items()}
    assert_same(found, photos)
    words = {stem: text.replace("\r", "") for stem, text in captions_in(back / "images").items()}
    assert words == CAPTIONS


@EVERY
@settings(max_examples=8, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)), st.sampled_from(["é ü.png", "#1 [a] 'b'.png"]))
def test_any_mask_survives_round_trip(trainer, mask, name):
    with tempfile.TemporaryDirectory() as folder:
        photos, masks = write_pair(Path(folder), mask, name)
        back = there_and_back(photos, masks, trainer, Path(folder) / "trade")
        assert_same(masks_in(back / "masks"), {Path(name).stem: mask})


@EVERY
def test_import_can_be_exported_again(trainer, album, tmp_path):
    back = there_and_back(album / "photos", album / "masks", trainer, tmp_path)
    again = there_and_back(None, back, trainer, tmp_path / "again")
    assert_same(masks_in(again / "masks"), masks_in(album / "masks"))
    entries = read_manifest(again / MANIFEST_NAME)
    assert [entry.source for entry in entries] == ["given"] * len(entries)
    boxes = {Path(entry.photo).stem: entry.box for entry in entries}
    for stem, mask in masks_in(album / "masks").items():
        rows, columns = np.nonzero(mask)
        expected = [columns.min(), rows.min(), columns.max(), rows.max()] if mask.any() else None
        assert boxes[stem] == expected


@EVERY
def test_two_exports_differ_only_in_their_paths(trainer, album, tmp_path):
    source = read_selection(album / "masks", album / "photos")
    for name in "ab":
        export_folder(source, CONVENTIONS[trainer], tmp_path / name / "x")
    first, second = tree(tmp_path / "a"), tree(tmp_path / "b")
    config = f"x/{CONVENTIONS[trainer].config}"
    first.pop(config, None), second.pop(config, None)
    assert first == second


def test_photos_that_all_trainers_read_alike_keep_their_bytes(album, tmp_path):
    export_folder(read_selection(album / "masks", album / "photos"), CONVENTIONS["kohya"], tmp_path / "out")
    before, after = tree(album / "photos"), tree(tmp_path / "out" / "images")
    assert {name for name in before if before[name] == after.get(name) and name in NAMES} == set(PLAIN)
    assert all(name.endswith((".png", ".txt")) for name in after.keys() - set(PLAIN))
