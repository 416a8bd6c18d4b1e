"""Pairing of photos and masks, and reports of those that do not fit."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, pairs


def turned_photo(path, size, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", size, (90, 120, 40)).save(path, exif=exif)
    return path


def write_drawing(path, size, **options):
    Image.new("L", size, 0).save(path, **options)
    return path


def check(mask, photo):
    pairs.check_size(mask, files.read_mask(mask).shape, photo, files.read_photo(photo).size)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_mask_drawn_on_stored_pixels_is_refused_with_reason(tmp_path, orientation):
    photo = turned_photo(tmp_path / "a.jpg", (48, 32), orientation)
    with pytest.raises(UserError, match=f"stored pixels, and EXIF orientation {orientation} rotates the photo"):
        check(write_drawing(tmp_path / "a.png", (48, 32)), photo)
    check(write_drawing(tmp_path / "a.png", (32, 48)), photo)


@pytest.mark.parametrize(("orientation", "size"), [(6, (30, 48)), (3, (48, 32)), (1, (32, 48))])
def test_other_wrong_sizes_are_not_blamed_on_exif(tmp_path, orientation, size):
    photo = turned_photo(tmp_path / "a.jpg", (40, 32), orientation)
    with pytest.raises(UserError, match="make the mask again from this photo") as error:
        check(write_drawing(tmp_path / "a.png", size), photo)
    assert "EXIF" not in str(error.value)


@pytest.mark.parametrize(
    ("orientation", "size", "hinted"),
    [(6, (32, 32), True), (3, (48, 32), True), (2, (48, 32), True), (6, (48, 32), False), (1, (32, 32), False)],
)
def test_ambiguous_rotation_causes_warning(tmp_path, orientation, size, hinted):
    photo = turned_photo(tmp_path / "a.jpg", size, orientation)
    mask = write_drawing(tmp_path / "a.png", files.read_photo(photo).size)
    words = pairs.turned_words(mask, photo)
    assert ("stored pixels" in words and f"orientation {orientation}" in words) == hinted
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = max(orientation, 2)
    assert pairs.turned_words(write_drawing(mask, size, exif=exif), photo) == ""


def test_masks_without_photo_are_named(tmp_path):
    photos = [tmp_path / "photos" / f"{name}.jpg" for name in ("a", "b")]
    for name in ("a", "b", "c", "d"):
        files.write_mask(np.eye(8, dtype=bool), tmp_path / "masks" / f"{name}.png")
    assert pairs.unpaired_words(photos, tmp_path / "masks") == "masks without a photo: c.png, d.png"
    assert pairs.unpaired_words([*photos, tmp_path / "c.png", tmp_path / "d.png"], tmp_path / "masks") == ""


def test_photo_whose_mask_is_missing_is_named(tmp_path):
    files.write_mask(np.eye(8, dtype=bool), tmp_path / "a.png")
    with pytest.raises(UserError, match=r"no mask in .* for b\.jpg"):
        pairs.pair([tmp_path / "photos" / "a.jpg", tmp_path / "photos" / "b.jpg"], tmp_path)
