"""A photo that is not the one its mask was made on is refused wherever the mask would be used."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats import read_selection
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, newest_entries, write_manifest
from persam_dreambooth.photos.pairs import find_masks, photos_to_leave_out
from persam_dreambooth.preprocessing import SETTINGS_NAME
from tests.scene import scene
from tests.training.small import configure, photos_of


@pytest.fixture
def album(tmp_path):
    """Three photos with the output of `segment`."""
    entries = []
    for number, name in enumerate("abc"):
        pixels, disc = scene(40, 60, number)
        photo, mask = tmp_path / "photos" / f"{name}.png", tmp_path / "out" / "masks" / f"{name}.png"
        files.write_picture(Image.fromarray(pixels), photo)
        files.write_mask(disc, mask)
        named = {"mask": f"masks/{name}.png", "mask_digest": files.digest(mask)}
        entries.append(ManifestEntry(f"../photos/{name}.png", files.digest(photo), **named))
    write_manifest(tmp_path / "out" / MANIFEST_NAME, entries)
    (tmp_path / "out" / SETTINGS_NAME).write_text(json.dumps({}))
    return tmp_path


def swap(album):
    a, b = (album / "photos" / f"{name}.png" for name in "ab")
    kept = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(kept)
    return "a.png, b.png are not the photos their masks were made on"


def turn(album):
    path = album / "photos" / "c.png"
    exif = Image.Exif()
    exif[0x112] = 3
    Image.open(path).save(path, exif=exif)
    return "c.png is not the photo its mask was made on"


def trained(album):
    config = configure(
        "model",
        mask={"instance_mask_dir": str(album / "out")},
        data={"instance_data_dir": str(album / "photos")},
        output={"output_dir": str(album / "model")},
    )
    return photos_of(config, [(32, 32)])


def exported(album):
    return read_selection(album / "out", album / "photos", ".txt", False)


def evaluated(album):
    from persam_dreambooth.evaluation.generation.plan import photos_with_masks

    return photos_with_masks(album / "photos", album / "out")


@pytest.mark.parametrize("use", [trained, exported, evaluated])
@pytest.mark.parametrize("change", [swap, turn])
def test_changed_photos_are_named_and_refused(album, use, change):
    use(album)
    message = change(album)
    with pytest.raises(UserError, match=message):
        use(album)


def check(album):
    photos = sorted((album / "photos").iterdir())
    return photos_to_leave_out(
        photos, find_masks(album / "out" / "masks", photos), newest_entries(album / "out" / MANIFEST_NAME)
    )


def test_mask_edited_since_is_not_compared(album):
    turn(album)
    files.write_mask(np.ones((40, 60), bool), album / "out" / "masks" / "c.png")
    assert check(album) == {}


def test_same_photos_in_another_folder_are_accepted(album):
    shutil.move(album / "photos", album / "moved")
    shutil.copytree(album / "moved", album / "photos")
    assert check(album) == {}


def test_excluded_photo_is_left_out_even_if_it_changed(album):
    path = album / "out" / MANIFEST_NAME
    *others, last = newest_entries(path)
    write_manifest(path, [*others, ManifestEntry(**{**vars(last), "review": "excluded"})])
    turn(album)
    assert list(check(album).values()) == ["c.png was excluded in review"]
