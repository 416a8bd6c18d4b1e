"""One photo with its mask: written so that every trainer sees the same, read as trainers do, problems in words."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats.masked_photos import (
    MaskedPhoto,
    clashes,
    foreign,
    read_caption,
    read_levels,
    refuse,
    unused,
    write_caption,
    write_photo,
)
from persam_dreambooth.photos import files


def turned(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def photo_of(picture, path, **options):
    picture.save(path, **options)
    return MaskedPhoto(path, files.read_photo(path), np.zeros(picture.size[::-1], np.uint8), None)


@pytest.mark.parametrize(
    ("name", "mode", "options", "written"),
    [
        ("dog.JPG", "RGB", {}, "dog.jpg"),
        ("dog.webp", "RGB", {"exif": turned(1)}, "dog.webp"),
        ("dog.png", "L", {}, "dog.png"),
        ("dog.jpg", "RGB", {"exif": turned(6)}, None),
        ("dog.png", "RGBA", {}, None),
        ("dog.png", "P", {}, None),
        ("dog.bmp", "RGB", {}, None),
        ("dog.jpg", "CMYK", {}, None),
    ],
)
def test_bytes_are_kept_if_every_trainer_sees_the_same_picture(name, mode, options, written, tmp_path):
    picture = Image.new("RGB", (6, 4), "red")
    picture.paste("blue", (3, 0, 6, 4))
    masked = photo_of(picture.convert(mode), tmp_path / name, **options)
    target = write_photo(masked, tmp_path / "out")
    assert target == tmp_path / "out" / (written or "dog.png")
    if written:
        assert target.read_bytes() == masked.photo.read_bytes()
        as_png = write_photo(masked, tmp_path / "png", as_png=True)
        assert as_png.name == "dog.png" and Image.open(as_png).format == "PNG"
    else:
        with Image.open(target) as image:
            assert (image.format, image.mode, image.getexif()) == ("PNG", "RGB", {})
            np.testing.assert_array_equal(np.asarray(image), np.asarray(masked.image))


def test_nothing_is_written_over_another_file(tmp_path):
    masked = photo_of(Image.new("RGB", (6, 4)), tmp_path / "dog.png")
    write_photo(masked, tmp_path / "out")
    (tmp_path / "link").symlink_to("nowhere")
    for path in (tmp_path / "out" / "dog.png", tmp_path / "link"):
        with pytest.raises(UserError, match=f"{path.name} would replace a file that has the same name"):
            unused(path)
    with pytest.raises(UserError, match=r"dog\.png would replace a file"):
        write_photo(masked, tmp_path / "out")


def test_mask_lies_on_the_stored_pixels_of_its_photo_or_turns_by_its_own_exif(tmp_path):
    levels = np.zeros((4, 6), np.uint8)
    levels[0, :2] = 255
    Image.fromarray(levels).save(tmp_path / "mask.png", exif=turned(3))
    Image.new("RGB", (6, 4)).save(tmp_path / "photo.jpg", exif=turned(6))
    np.testing.assert_array_equal(read_levels(tmp_path / "mask.png", "red"), np.rot90(levels, 2))
    np.testing.assert_array_equal(
        read_levels(tmp_path / "mask.png", "red", lies_on=tmp_path / "photo.jpg"), np.rot90(levels, -1)
    )


@pytest.mark.parametrize(
    ("pixels", "red", "grey"),
    [
        (np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8), [255, 0], [76, 150]),
        (np.array([[0, 256 * 7]], np.uint16), [0, 7], [0, 7]),  # 16 bits keep their high byte
    ],
)
def test_each_trainer_reads_its_channel(pixels, red, grey, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert np.asarray(read_levels(tmp_path / "mask.png", "red")).tolist() == [red]
    assert np.asarray(read_levels(tmp_path / "mask.png", "grey")).tolist() == [grey]


def test_captions_are_text_or_none(tmp_path):
    photo = tmp_path / "dog.png"
    write_caption(None, photo)
    assert not list(tmp_path.iterdir()) and read_caption(tmp_path / "dog.txt") is None
    write_caption("Hündin\nzwei", photo)
    assert read_caption(tmp_path / "dog.txt") == "Hündin\nzwei"
    (tmp_path / "dog.txt").write_bytes(b"\xef\xbb\xbf  a dog \n")
    assert read_caption(tmp_path / "dog.txt") == "a dog"
    (tmp_path / "dog.txt").write_bytes(b" \n")
    assert read_caption(tmp_path / "dog.txt") is None
    (tmp_path / "dog.txt").write_bytes(b"H\xfcndin")
    with pytest.raises(UserError, match=r"dog\.txt cannot be read .*; write it as UTF-8 text"):
        read_caption(tmp_path / "dog.txt")


def test_problems_are_listed_once_and_not_without_end(tmp_path):
    refuse([], "no problem")
    with pytest.raises(UserError, match=r"^two: a; b; nothing was written$"):
        refuse(["a", "b", "a"], "two")
    with pytest.raises(UserError, match=r": p0; .*; p49; and 3 more; nothing was written$") as error:
        refuse([f"p{number}" for number in range(53)], "many")
    assert "p50" not in str(error.value)
    paths = [tmp_path / name for name in ("a.png", "a.jpg", "a.png", "b.png")]
    assert clashes(paths) == [
        "a.png and a.jpg have the same name except for the suffix; rename one",
        "a.png is listed twice; remove one",
    ]
    for name in ("a.png", "a.txt", "b.TXT", "c.jp2", ".d.jxl", "e.json"):
        (tmp_path / name).touch()
    assert foreign(tmp_path) == ["c.jp2 is a picture in an unsupported format; convert or remove it"]
    assert foreign(tmp_path, paths[:1])[1:] == ["b.TXT is the caption of no photo; remove it"]
    (tmp_path / "a.txt").rename(tmp_path / "a.TXT")
    said = "a.TXT is not read as a caption; rename it to a.txt"  # unless the file system takes them for the same
    assert (said in foreign(tmp_path, paths[:1])) == (not (tmp_path / "a.txt").exists())
