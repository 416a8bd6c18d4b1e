"""Opening untrusted image files: known formats of regular files only, and every failure in one line."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.image_files import MAX_PIXELS, check_regular, open_picture


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))


def refusal(path, **options):
    with pytest.raises(UserError) as error, open_picture(path, "mask", **options):
        pass
    assert len(str(error.value).splitlines()) == 1 and f"the mask {path} " in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["a.ppm", "a.ico", "a.eps", "a.tga", "a.png"])
def test_known_formats_are_opened_and_no_others(tmp_path, name):
    """Pillow could open all of them, and would run a program for the third; the suffix decides nothing."""
    path = tmp_path / name
    noise().save(path)
    path.rename(tmp_path / "a.jpg")
    if name == "a.png":
        with open_picture(tmp_path / "a.jpg") as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 24))
    else:
        assert "not an image in a supported format: JPEG, PNG" in refusal(tmp_path / "a.jpg")


def test_header_is_read_without_the_pixels(tmp_path):
    path = tmp_path / "a.png"
    noise().save(path)
    path.write_bytes(path.read_bytes()[:200])
    with open_picture(path, "mask", decode=False) as image:
        assert image.size == (32, 24)
    assert "cannot be decoded (image file is truncated" in refusal(path)
    path.write_bytes(b"")
    assert "(the file is empty); export it again" in refusal(path, decode=False)


def write_header(path, width, height):
    """Write the beginning of a PNG of this size."""
    parts = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT"
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_more_pixels_than_the_limit_are_refused(tmp_path):
    path, (width, height) = tmp_path / "a.png", (10_000, MAX_PIXELS // 10_000)
    write_header(path, width, height + 1)
    assert f"it has more than {MAX_PIXELS} pixels" in refusal(path, decode=False)
    write_header(path, width, height)  # Pillow alone would warn
    with open_picture(path, decode=False) as image:
        assert image.size == (width, height)


def test_what_is_no_regular_file_is_named_without_being_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert "is a named pipe, not a file; check the path" in refusal(tmp_path / "pipe.png")
    assert "is a folder, not a file" in refusal(tmp_path)
    assert "cannot be opened (Too many levels of symbolic links)" in refusal(tmp_path / "loop.png")
    with pytest.raises(UserError, match="the photo /dev/zero is a device, not a file"):
        check_regular(tmp_path.joinpath("/dev/zero"), "photo")
    for absent in (tmp_path / "absent.png", tmp_path / "a\0.png"):
        with pytest.raises(UserError, match=r"^no photo at .*; check the path$"):
            check_regular(absent, "photo")
