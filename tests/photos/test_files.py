"""Photo files: which are accepted, how they are read, and that no file is ever half-written."""

import hashlib
import io
import json
import os
import stat

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageCms, ImageFile

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files

RED, BLUE = (200, 30, 30), (30, 30, 200)
FORMATS = [f"photo{suffix}" for suffix in files.PHOTO_SUFFIXES]
LOSSY = ("jpg", "jpeg", "jpe", "jfif", "mpo", "webp", "avif", "heic", "heif", "hif")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("files")


def halves(width=32, height=16):
    """Red on the left, blue on the right; both halves consist of whole JPEG blocks."""
    levels = np.empty((height, width, 3), np.uint8)
    levels[:, : width // 2], levels[:, width // 2 :] = RED, BLUE
    return Image.fromarray(levels)


def save(picture, path, **options):
    """Write a picture in the format of its suffix, HEIC too, for which Pillow has no encoder."""
    if path.suffix in (".heic", ".heif", ".hif"):
        exif = options.pop("exif", None)
        encoded = pillow_heif.from_pillow(picture)
        encoded.info.update(options | ({"exif": exif.tobytes()} if exif else {}))
        encoded.save(path, format="HEIF", quality=90)
    else:
        picture.save(path, **options)


def noise(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 31, 3), dtype=np.uint8))


def assert_one_line_naming(error, path):
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


# Reading


@pytest.mark.parametrize("name", FORMATS)
def test_photo_of_every_format_is_read_as_rgb(tmp_path, name):
    save(halves(), tmp_path / name)
    photo = files.read_photo(tmp_path / name)
    assert (photo.mode, photo.size) == ("RGB", (32, 16))
    tolerance = 12 if name.endswith(LOSSY) else 0
    for x, colour in ((4, RED), (27, BLUE)):
        np.testing.assert_allclose(photo.getpixel((x, 8)), colour, atol=tolerance)


@pytest.mark.parametrize("suffix", [".jpg", ".mpo", ".png", ".webp", ".tif", ".avif", ".heic"])
@pytest.mark.parametrize(("orientation", "top"), [(6, RED), (8, BLUE)])
def test_photo_stored_sideways_is_read_upright(tmp_path, suffix, orientation, top):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    save(halves(32, 16), path, exif=exif)
    photo = files.read_photo(path)
    assert photo.size == (16, 32)
    np.testing.assert_allclose(photo.getpixel((8, 4)), top, atol=12)
    np.testing.assert_allclose(photo.getpixel((8, 28)), BLUE if top == RED else RED, atol=12)


def test_16_bit_png_keeps_its_high_byte(tmp_path):
    levels = np.random.default_rng(0).integers(0, 2**16, (5, 7), dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    photo = np.asarray(files.read_photo(tmp_path / "deep.png"))
    np.testing.assert_array_equal(photo, np.repeat((levels >> 8)[..., None], 3, axis=-1))


def test_cmyk_jpeg_shows_its_colours(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    assert Image.open(tmp_path / "print.jpg").mode == "CMYK"
    np.testing.assert_allclose(files.read_photo(tmp_path / "print.jpg").getpixel((8, 8)), (255, 0, 0), atol=12)


@pytest.mark.parametrize(
    ("mode", "stored", "shown"),
    [
        ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("LA", (90, 255), (90, 90, 90)),
        ("LA", (90, 0), (255, 255, 255)),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), (255, 255, 255)),
    ],
)
def test_grey_and_transparent_pngs_are_shown_on_white(tmp_path, mode, stored, shown):
    Image.new(mode, (4, 3), stored).save(tmp_path / "photo.png")
    assert files.read_photo(tmp_path / "photo.png").getpixel((1, 1)) == shown


def test_palette_png_shows_its_colours(tmp_path):
    halves().quantize(2).save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    np.testing.assert_array_equal(np.asarray(files.read_photo(tmp_path / "palette.png")), np.asarray(halves()))


@pytest.mark.parametrize("read", [files.read_photo, files.read_mask, files.read_picture])
@pytest.mark.parametrize("content", [b"", b"not a picture\n" * 50, bytes(1000)], ids=["empty", "text", "zeros"])
def test_file_that_is_not_image_is_refused_in_one_line(tmp_path, read, content):
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(UserError, match="cannot be decoded") as error:
        read(tmp_path / "broken.jpg")
    assert_one_line_naming(error, tmp_path / "broken.jpg")


@pytest.mark.filterwarnings("ignore:Truncated File Read")  # Pillow's, of a TIFF
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7])
def test_truncated_photo_is_refused_in_one_line(tmp_path, name, kept):
    whole = tmp_path / name
    save(noise(), whole)
    content = whole.read_bytes()
    whole.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match="cannot be decoded") as error:
        files.read_photo(whole)
    assert_one_line_naming(error, whole)


@pytest.mark.parametrize("read", [files.read_photo, files.read_mask, files.read_picture])
def test_missing_file_and_folder_are_refused_in_one_line(tmp_path, read):
    with pytest.raises(UserError, match="check the path") as error:
        read(tmp_path / "absent.jpg")
    assert_one_line_naming(error, tmp_path / "absent.jpg")
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert_one_line_naming(error, tmp_path)


def test_picture_is_read_as_stored(tmp_path):
    levels = np.array([[0, 1], [128, 255]], np.uint8)
    Image.fromarray(levels).save(tmp_path / "levels.png")
    picture = files.read_picture(tmp_path / "levels.png")
    assert picture.mode == "L"
    np.testing.assert_array_equal(np.asarray(picture), levels)


@pytest.mark.parametrize("suffix", [".gif", ".mpo", ".tif", ".webp", ".png", ".avif", ".heic"])
def test_first_of_several_images_in_file_is_read(tmp_path, suffix):
    path, first, second = (
        tmp_path / f"several{suffix}",
        Image.new("RGB", (32, 16), RED),
        Image.new("RGB", (32, 16), BLUE),
    )
    if suffix == ".heic":
        both = pillow_heif.from_pillow(first)
        both.add_from_pillow(second)
        both.save(path)
    else:
        first.save(path, save_all=True, append_images=[second])
    np.testing.assert_allclose(files.read_photo(path).getpixel((8, 8)), RED, atol=12)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif", ".heic"])
def test_colours_are_converted_by_embedded_profile(tmp_path, suffix):
    path, swapped = tmp_path / f"profile{suffix}", ImageCms.ImageCmsProfile(io.BytesIO(swapping_profile()))
    save(Image.new("RGB", (32, 16), RED), path, icc_profile=swapped.tobytes())
    np.testing.assert_allclose(files.read_photo(path).getpixel((8, 8)), RED[::-1], atol=20)
    np.testing.assert_allclose(files.read_photo(path, managed=False).getpixel((8, 8)), RED, atol=12)


def swapping_profile():
    """sRGB with red and blue swapped, so that an ignored profile is obvious."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return plain.replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ").replace(b"tXYZ", b"bXYZ")


@pytest.mark.parametrize("profile", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"damaged"])
def test_srgb_or_damaged_profile_changes_no_pixel(tmp_path, profile):
    noise().save(tmp_path / "plain.png")
    noise().save(tmp_path / "profiled.png", icc_profile=profile)
    plain, profiled = (np.asarray(files.read_photo(tmp_path / name)) for name in ("plain.png", "profiled.png"))
    np.testing.assert_array_equal(plain, profiled)


def test_out_of_memory_is_not_blamed_on_file(tmp_path, monkeypatch):
    noise().save(tmp_path / "photo.png")
    for error in (MemoryError(), OSError("out of memory when reading image file")):
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _, error=error: raise_(error))
        with pytest.raises(MemoryError):
            files.read_photo(tmp_path / "photo.png")


def raise_(error):
    raise error


# Writing


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_interrupted_write_leaves_only_old_file(tmp_path, interruption):
    target = tmp_path / "table.txt"
    target.write_text("old")
    with pytest.raises(interruption), files.replacing(target) as temporary:
        temporary.write_text("half of the n")
        raise interruption
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.txt"]


def test_interrupted_write_of_new_file_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), files.replacing(tmp_path / "new" / "table.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list((tmp_path / "new").iterdir()) == []


def test_file_appears_only_when_its_block_ends(tmp_path):
    target = tmp_path / "deeper" / "still" / "table.txt"
    with files.replacing(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary.parent == target.parent  # on the same disk, so that the rename is one step
        assert temporary.name.startswith(".")
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_replaced_file_gets_ordinary_permissions(tmp_path, umask):
    before = os.umask(umask)
    try:
        (tmp_path / "ordinary").write_text("")
        with files.replacing(tmp_path / "ours") as temporary:
            temporary.write_text("")
        assert os.umask(umask) == umask  # and the process's umask is unchanged
    finally:
        os.umask(before)
    ours, ordinary = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "ordinary"))
    assert ours == ordinary == 0o666 & ~umask


@settings(deadline=None, max_examples=60)
@given(mask=arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_mask_survives_writing_and_reading(folder, mask):
    files.write_mask(mask, folder / "mask.png")
    with Image.open(folder / "mask.png") as stored:
        assert (stored.format, stored.mode, stored.size) == ("PNG", "L", mask.shape[::-1])
        np.testing.assert_array_equal(np.asarray(stored), np.where(mask, 255, 0))
    found = files.read_mask(folder / "mask.png")
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.JPG", "JPEG")])
def test_picture_is_written_in_format_of_its_suffix(tmp_path, name, kind):
    files.write_picture(halves(), tmp_path / "new" / name)
    with Image.open(tmp_path / "new" / name) as stored:
        assert (stored.format, stored.size) == (kind, (32, 16))


@settings(deadline=None, max_examples=30)
@given(content=st.binary(max_size=5000))
def test_digest_is_sha_256_of_bytes(folder, content):
    (folder / "file").write_bytes(content)
    assert files.digest(folder / "file") == hashlib.sha256(content).hexdigest()


def test_texts_are_read_without_pixels_unless_these_are_to_be_checked(tmp_path):
    texts, path = {"prompt": "a sks dog ☂", "seed": "3"}, tmp_path / "a.png"
    files.write_picture(Image.effect_noise((64, 64), 50), path, texts)
    assert files.picture_texts(path) == files.picture_texts(path, whole=True) == texts
    path.write_bytes(path.read_bytes()[:1000])
    assert files.picture_texts(path) == texts and files.picture_texts(path, whole=True) == {}
    assert files.picture_texts(tmp_path / "missing.png") == {}


def test_leftovers_of_killed_run_do_not_block_folder(tmp_path):
    (tmp_path / ".unfinished-a.json").touch()
    assert not files.refuse_other_runs(tmp_path, "run.json", {}, "run")
    (tmp_path / "mine.json").touch()
    with pytest.raises(UserError, match="is not from an earlier run"):
        files.refuse_other_runs(tmp_path, "run.json", {}, "run")


def test_path_that_is_not_utf_8_can_be_written_to_json(tmp_path):
    name = os.fsdecode(b"h\xfc.png")
    files.write_json({"photo": name}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"photo": name}
