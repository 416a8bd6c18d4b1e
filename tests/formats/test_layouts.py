"""Layouts without an index: what is paired, what is written, and what a trainer's folder may not hold."""

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats import CONVENTIONS
from persam_dreambooth.formats.layouts import Alpha, Folders, Given
from persam_dreambooth.formats.masked_photos import MaskedPhoto
from persam_dreambooth.photos import files
from tests.formats.albums import write_pair
from tests.kills import tree

EVERY = pytest.mark.parametrize("trainer", CONVENTIONS)


@EVERY
def test_names_that_collide_on_some_file_systems_overwrite_nothing(trainer, tmp_path):
    """Such as Dog.jpg and dog.jpg on Windows and macOS; here the same name is used for both."""
    mask = np.ones((4, 6), bool)
    photos, _ = write_pair(tmp_path / "album", mask)
    layout, photo = CONVENTIONS[trainer].layout, photos / "dog.png"
    sample = MaskedPhoto(photo, files.read_photo(photo), mask.astype(np.uint8) * 255, "words")
    layout.add(sample, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(UserError, match=r"dog.*\.png would replace a file"):
        layout.add(sample, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def sample(folder, name="dog.png", mode="RGB"):
    """A photo of two colours, and a mask with a grey column."""
    picture = Image.new(mode, (6, 4), "red")
    picture.paste("blue", (3, 0, 6, 4))
    folder.mkdir(exist_ok=True)
    picture.save(folder / name)
    levels = np.zeros((4, 6), np.uint8)
    levels[:, 1:3], levels[:, 3] = 255, 100
    return MaskedPhoto(folder / name, files.read_photo(folder / name), levels, "words")


@pytest.mark.parametrize(
    ("layout", "photo", "mask"),
    [
        (Folders(), "images/dog.png", "masks/dog.png"),
        (Folders(whole_name=True), "images/dog.png", "masks/dog.png"),
        (Folders("photos", "photos", "-mask", ("-mask",)), "photos/dog.png", "photos/dog-mask.png"),
    ],
    ids=["two folders", "whole names", "one folder"],
)
def test_photos_and_masks_are_paired_by_name(layout, photo, mask, tmp_path):
    """The photo, a BMP, becomes a PNG, which every trainer reads."""
    written = sample(tmp_path / "own", "dog.bmp")
    assert layout.add(written, tmp_path / "theirs") == {}
    (found,), problems = layout.find(Given(tmp_path / "theirs"))
    assert (found.photo, found.caption, problems) == (tmp_path / "theirs" / photo, "words", [])
    pictures = [path.relative_to(tmp_path / "theirs").as_posix() for path in (tmp_path / "theirs").rglob("*.png")]
    assert sorted(pictures) == sorted([photo, mask])
    np.testing.assert_array_equal(np.asarray(found.read_levels()), written.levels)
    moved = (tmp_path / "theirs" / layout.photos).rename(tmp_path / "elsewhere")
    given = Given(tmp_path / "theirs", moved, moved if layout.masks == layout.photos else None)
    assert len(layout.find(given)[0]) == 1


def test_problems_of_a_folder_are_listed(tmp_path):
    for name in ("images/a.png", "images/b.png", "masks/a.png", "masks/a.webp", "masks/c.png", "masks/d.png"):
        files.write_picture(Image.new("RGB", (6, 4)), tmp_path / name)
    (tmp_path / "images" / "lost.txt").touch()
    (tmp_path / "masks" / "e.jxl").touch()
    found, problems = Folders().find(Given(tmp_path))
    assert [item.photo.name for item in found] == ["a.png"]
    assert problems == [
        "lost.txt is the caption of no photo; remove it",
        "e.jxl is a picture in an unsupported format; convert or remove it",
        "a.png and a.webp are masks of the same photo; remove one",
        "b.png has no mask; add one, or remove the photo",
        "the mask c.png has no photo; remove it",
        "the mask d.png has no photo; remove it",
    ]


def test_one_folder_cannot_hold_both_under_the_same_name(tmp_path):
    with pytest.raises(UserError, match="photos and masks would both be read from"):
        Folders().find(Given(tmp_path))
    with pytest.raises(UserError, match=r"nowhere is not a folder; give the folder that holds the trainer's"):
        Folders().find(Given(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"dog-mask\.png has a name that the trainer reserves for masks"):
        Folders(postfix="-mask", reserved=("-mask",)).add(sample(tmp_path, "dog-mask.png"), tmp_path / "theirs")


@pytest.mark.parametrize("background", [True, False])
def test_alpha_channel_is_the_mask(background, tmp_path):
    """Training needs the colours below the transparency; cut-outs have none there."""
    layout, written = Alpha(background=background), sample(tmp_path / "own")
    layout.add(written, tmp_path / "theirs")
    with Image.open(tmp_path / "theirs" / "images" / "dog.png") as image:
        assert image.mode == "RGBA" and image.getpixel((1, 0)) == (255, 0, 0, 255)
        assert image.getpixel((5, 0)) == ((0, 0, 255, 0) if background else (0, 0, 0, 0))
    (found,), problems = layout.find(Given(tmp_path / "theirs"))
    assert (problems, found.caption) == ([], "words")
    np.testing.assert_array_equal(np.asarray(found.read_levels()), written.levels)
    assert found.read_photo().getpixel((5, 0)) == ((0, 0, 255) if background else (255, 255, 255))
    sample(tmp_path / "theirs" / "images", "opaque.png")
    (_, opaque), _ = layout.find(Given(tmp_path / "theirs"))
    with pytest.raises(UserError, match=r"opaque\.png has no alpha channel, which would be its mask"):
        opaque.read_levels()
