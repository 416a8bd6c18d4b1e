"""The photos exported are those that training would use, and all problems are listed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats import read_selection
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, read_manifest, write_manifest
from tests.judged_photos import save_judged_photos
from tests.scene import scene


@pytest.fixture
def folder(tmp_path):
    """Photos with the output of `persam-dreambooth segment`; one photo could not be read."""
    broken = tmp_path / "photos" / "broken.jpg"
    broken.parent.mkdir()
    broken.write_bytes(b"no photo")
    error = "the photo broken.jpg cannot be decoded"
    save_judged_photos(tmp_path, 20, 30, ManifestEntry("../photos/broken.jpg", files.digest(broken), error=error))
    return tmp_path


def kept(source):
    return [pair.photo.stem for pair in source.pairs]


def list_of(error):
    """Return the problems that an error lists."""
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize("images", ["photos", None])
@pytest.mark.parametrize("masks", ["out", "out/masks"])
def test_uncertain_and_broken_photos_are_left_out_with_reason(folder, images, masks):
    source = read_selection(folder / masks, images and folder / images)
    assert kept(source) == ["dog", "reference"]
    assert {photo.name: reason for photo, reason in source.left_out.items()} == {
        "broken.jpg": "the photo broken.jpg cannot be decoded",
        "park.png": "the subject in park.png: unsure, because of park",
        "sofa.png": "the subject in sofa.png: not found, because of sofa",
    }


def test_uncertain_photos_are_kept_on_request(folder):
    source = read_selection(folder / "out", include_uncertain=True)
    assert kept(source) == ["dog", "park", "reference", "sofa"]
    assert [photo.name for photo in source.left_out] == ["broken.jpg"]


@pytest.mark.parametrize("include_uncertain", [False, True])
def test_persons_decision_overrides_rule(folder, include_uncertain):
    decided = {"dog": "excluded", "park": "approved", "sofa": None}
    manifest = folder / "out" / MANIFEST_NAME
    entries = [replace(entry, review=decided.get(Path(entry.photo).stem)) for entry in read_manifest(manifest)]
    write_manifest(manifest, entries)
    source = read_selection(folder / "out", include_uncertain=include_uncertain)
    assert kept(source) == (["park", "reference", "sofa"] if include_uncertain else ["park", "reference"])
    reasons = {photo.name: reason for photo, reason in source.left_out.items()}
    assert reasons["dog.png"] == "dog.png was excluded in review" and "park.png" not in reasons


def test_excluded_photo_that_was_saved_again_stays_excluded(folder):
    manifest = folder / "out" / MANIFEST_NAME
    first, *others = read_manifest(manifest)
    write_manifest(manifest, [replace(first, review="excluded"), *others])
    with Image.open(folder / "photos" / "dog.png") as image:
        image.save(folder / "photos" / "dog.png", compress_level=0)
    assert files.digest(folder / "photos" / "dog.png") != first.digest
    assert kept(read_selection(folder / "out")) == ["reference"]


def test_verdict_applies_only_to_mask_it_was_made_for(folder):
    files.write_mask(scene(20, 30)[1].T[:20, :20].repeat(2, 1)[:, :30], folder / "out" / "masks" / "park.png")
    assert kept(read_selection(folder / "out")) == ["dog", "park", "reference"]


def test_reasons_are_given_if_nothing_is_left(folder):
    for name in ("dog", "reference"):
        (folder / "photos" / f"{name}.png").unlink()
        (folder / "out" / "masks" / f"{name}.png").unlink()
    with pytest.raises(UserError, match="nothing to export") as error:
        read_selection(folder / "out", folder / "photos")
    assert all(name in list_of(error) for name in ("park", "sofa", "broken", "--include_uncertain"))


def test_missing_photos_and_masks_are_listed(folder):
    (folder / "photos" / "dog.png").unlink()
    (folder / "out" / "masks" / "reference.png").unlink()
    with pytest.raises(UserError) as error:
        read_selection(folder / "out")
    assert f"{folder / 'photos' / 'dog.png'} does not exist" in list_of(error)
    assert "reference.png has no mask" in list_of(error)


def test_photos_without_masks_and_masks_without_photos_are_listed(folder):
    for name in ("first", "second"):
        Image.new("RGB", (4, 4)).save(folder / "photos" / f"{name}.png")
        files.write_mask(np.ones((4, 4), bool), folder / "out" / "masks" / f"foreign {name}.png")
    with pytest.raises(UserError) as error:
        read_selection(folder / "out", folder / "photos")
    listed = list_of(error)
    assert all(f"{name}.png has no mask" in listed for name in ("first", "second"))
    assert all(f"the mask foreign {name}.png has no photo" in listed for name in ("first", "second"))
    assert "nothing was written" in listed


def test_pictures_in_unsupported_formats_are_listed(folder):
    for name in ("photos/phone.JXL", "out/masks/moving.jp2", "photos/notes.md"):
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError) as error:
        read_selection(folder / "out", folder / "photos")
    assert "phone.JXL is a picture" in list_of(error) and "moving.jp2 is a picture" in list_of(error)
    assert "notes.md" not in list_of(error)


def test_clashing_stems_are_listed(folder):
    for place in ("photos", "out/masks"):
        kept = folder / place / "dog.bmp"
        Image.new("RGB", (30, 20)).save(kept)
        with pytest.raises(UserError, match=r"dog.bmp and dog.png"):
            read_selection(folder / "out", folder / "photos")
        kept.unlink()


def test_photos_folder_cannot_be_masks_folder(folder):
    (folder / "photos" / "broken.jpg").unlink()
    with pytest.raises(UserError, match="the photos themselves"):
        read_selection(folder / "photos", folder / "photos")


def test_masks_without_manifest_need_photos_folder(folder):
    shutil.move(folder / "out" / "masks", folder / "alone" / "deeper")
    with pytest.raises(UserError, match="--images"):
        read_selection(folder / "alone" / "deeper")
    with pytest.raises(UserError, match="not a folder"):
        read_selection(folder / "nowhere", folder / "photos")


def test_captions_are_read_by_their_extension_and_empty_ones_are_none(folder):
    (folder / "photos" / "dog.words").write_bytes(b"\xef\xbb\xbfa sks dog \r\n")
    (folder / "photos" / "reference.words").write_text(" \n")
    source = read_selection(folder / "out", caption_extension=".words")
    assert [pair.caption for pair in source.pairs] == ["a sks dog", None]
    (folder / "photos" / "dog.words").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        read_selection(folder / "out", caption_extension=".words")
