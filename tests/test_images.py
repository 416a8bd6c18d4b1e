"""Conversion of image and mask files of every kind in memory."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.images import to_levels, to_mask, to_rgb

ORIENTATION_TAG = 0x0112

# EXIF orientation -> how the file stores an image that should be shown as `upright`.
STORED_BY_ORIENTATION = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def stored(image, file_format, **options):
    """Write an image to the bytes of a real file and read it back."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def orientation(number):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = number
    return exif


def rgb_of(image):
    found = to_rgb(image)
    assert found.mode == "RGB"
    return np.asarray(found)


def grey(levels):
    return np.repeat(np.asarray(levels, np.uint8)[..., None], 3, axis=-1)


def palette_image(indices, colours, **options):
    indices = np.asarray(indices, np.uint8)
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette([level for colour in colours for level in colour])
    return stored(image, "PNG", **options)


@pytest.fixture
def upright():
    """An image, (2, 3, 3) uint8, of six different colours, so that no rotation or flip goes unnoticed."""
    return np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)


# Pictures


@pytest.mark.parametrize("number", range(1, 9))
def test_every_exif_orientation_is_made_upright(upright, number):
    file = stored(Image.fromarray(STORED_BY_ORIENTATION[number](upright).copy()), "PNG", exif=orientation(number))
    np.testing.assert_array_equal(rgb_of(file), upright)


@pytest.mark.parametrize("number", range(1, 9))
def test_jpeg_of_every_orientation_is_made_upright(upright, number):
    large = np.kron(upright, np.ones((16, 16, 1), np.uint8))  # flat blocks survive JPEG
    pixels = STORED_BY_ORIENTATION[number](large).copy()
    file = stored(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0, exif=orientation(number))
    assert np.abs(rgb_of(file).astype(int) - large).max() <= 8


def test_upright_image_has_no_orientation_tag(upright):
    file = stored(Image.fromarray(STORED_BY_ORIENTATION[6](upright).copy()), "PNG", exif=orientation(6))
    once = to_rgb(file)
    np.testing.assert_array_equal(rgb_of(once), once)


def test_given_image_is_not_modified(upright):
    alpha = np.full((2, 3, 1), 100, np.uint8)
    image = Image.fromarray(np.concatenate([upright, alpha], axis=-1))
    to_rgb(image)
    assert image.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(image)[..., :3], upright)


def test_rgba_is_composited_on_white():
    pixels = [[(255, 0, 0, 255), (255, 0, 0, 128), (255, 0, 0, 0)]]
    found = rgb_of(stored(Image.fromarray(np.array(pixels, np.uint8)), "PNG"))
    np.testing.assert_array_equal(found, [[(255, 0, 0), (255, 127, 127), (255, 255, 255)]])


def test_grey_with_alpha_is_composited_on_white():
    image = Image.fromarray(np.array([[(0, 255), (0, 51), (0, 0)]], np.uint8), "LA")
    np.testing.assert_array_equal(rgb_of(stored(image, "PNG")), grey([[0, 204, 255]]))


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])], ids=["index", "alpha table"])
def test_transparent_palette_entry_becomes_white(transparency):
    file = palette_image([[0, 1]], [(10, 20, 30), (200, 0, 0)], transparency=transparency)
    assert file.mode == "P"
    np.testing.assert_array_equal(rgb_of(file), [[(10, 20, 30), (255, 255, 255)]])


def test_transparent_colour_of_rgb_png_becomes_white():
    image = Image.fromarray(np.array([[(1, 2, 3), (4, 5, 6)]], np.uint8))
    file = stored(image, "PNG", transparency=(4, 5, 6))
    assert file.mode == "RGB"
    np.testing.assert_array_equal(rgb_of(file), [[(1, 2, 3), (255, 255, 255)]])


def test_palette_gives_its_colours():
    file = palette_image([[0, 1, 1]], [(10, 20, 30), (200, 0, 0)])
    assert file.mode == "P"
    np.testing.assert_array_equal(rgb_of(file), [[(10, 20, 30), (200, 0, 0), (200, 0, 0)]])


def test_grey_and_black_and_white_give_three_equal_channels():
    np.testing.assert_array_equal(rgb_of(Image.fromarray(np.array([[0, 77, 255]], np.uint8))), grey([[0, 77, 255]]))
    np.testing.assert_array_equal(rgb_of(Image.fromarray(np.array([[False, True]]))), grey([[0, 255]]))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_levels_keep_their_high_byte(file_format):
    file = stored(Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16)), file_format)
    assert file.mode.startswith("I;16")
    np.testing.assert_array_equal(rgb_of(file), grey([[0, 0, 1, 128, 255]]))


def test_float_tiff_is_read_from_0_to_1():
    file = stored(Image.fromarray(np.array([[0, 0.5, 1, np.nan]], np.float32)), "TIFF")
    assert file.mode == "F"
    np.testing.assert_array_equal(rgb_of(file), grey([[0, 127, 255, 0]]))


def test_float_tiff_with_level_above_1_is_read_from_0_to_255():
    file = stored(Image.fromarray(np.array([[-3, 0.5, 100.7, 255, 300]], np.float32)), "TIFF")
    np.testing.assert_array_equal(rgb_of(file), grey([[0, 0, 100, 255, 255]]))


@pytest.mark.parametrize(
    ("ink", "seen"),
    [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))],
    ids=["no ink", "magenta and yellow", "black"],
)
def test_cmyk_jpeg_gives_printed_colour(ink, seen):
    file = stored(Image.new("CMYK", (16, 16), ink), "JPEG", quality=95)
    assert file.mode == "CMYK"
    assert np.abs(rgb_of(file).astype(int) - seen).max() <= 3


# Masks


def cut_out(mask, subject, elsewhere=(0, 0, 0)):
    """Return RGBA with a subject of one colour on transparency."""
    opaque, transparent = (*subject, 255), (*elsewhere, 0)
    return np.where(mask[..., None], opaque, transparent).astype(np.uint8)


def soft(mask):
    """Return grey levels like those of a soft brush: 195-255 inside, 0-60 outside."""
    noise = np.random.default_rng(0).integers(0, 61, mask.shape)
    return np.where(mask, 255 - noise, noise).astype(np.uint8)


def photo_transparent_outside(mask):
    """Return a colourful photo, (H, W, 4), with everything but the subject erased to alpha 0, colours kept."""
    colours = np.random.default_rng(0).integers(0, 256, (*mask.shape, 3))
    return np.concatenate([colours, mask[..., None] * 255], axis=-1).astype(np.uint8)


DRAWINGS = {
    "bool array": lambda mask: mask,
    "0/1 array": lambda mask: mask.astype(np.uint8),
    "0/1 int64 array": lambda mask: mask.astype(np.int64),
    "0/255 array": lambda mask: mask.astype(np.uint8) * 255,
    "0/1 float array": lambda mask: mask.astype(np.float32),
    "0/65535 array": lambda mask: mask.astype(np.uint16) * 65535,
    "(H, W, 1) array": lambda mask: mask[..., None],
    "(H, W, 3) green array": lambda mask: mask[..., None] * np.array([0, 255, 0]),
    "(H, W, 2) cut-out array": lambda mask: np.stack([mask * 0, mask * 255], axis=-1),
    "(H, W, 4) cut-out array": lambda mask: cut_out(mask, subject=(20, 10, 5)),
    "1-bit PNG": lambda mask: stored(Image.fromarray(mask), "PNG"),
    "0/1 grey PNG": lambda mask: stored(Image.fromarray(mask.astype(np.uint8)), "PNG"),
    "0/255 grey PNG": lambda mask: stored(Image.fromarray(mask.astype(np.uint8) * 255), "PNG"),
    "soft-edged grey PNG": lambda mask: stored(Image.fromarray(soft(mask)), "PNG"),
    "grey JPEG": lambda mask: stored(Image.fromarray(mask.astype(np.uint8) * 255), "JPEG"),
    "PerSeg palette": lambda mask: palette_image(mask, [(0, 0, 0), (128, 0, 0)]),
    "grey palette": lambda mask: palette_image(mask, [(0, 0, 0), (128, 128, 128)]),
    "transparent palette": lambda mask: palette_image(mask, [(0, 0, 0), (9, 9, 9)], transparency=0),
    "green RGB": lambda mask: stored(Image.fromarray(np.uint8(mask[..., None] * np.array([0, 255, 0]))), "PNG"),
    "RGB with a transparent colour": lambda mask: stored(
        Image.fromarray(cut_out(mask, subject=(20, 10, 5))[..., :3]), "PNG", transparency=(0, 0, 0)
    ),
    "dark subject cut out": lambda mask: stored(Image.fromarray(cut_out(mask, subject=(20, 10, 5))), "PNG"),
    "black subject cut out of white": lambda mask: Image.fromarray(cut_out(mask, (0, 0, 0), (255, 255, 255))),
    "photo erased around the subject": lambda mask: Image.fromarray(photo_transparent_outside(mask)),
    "grey cut-out": lambda mask: stored(Image.fromarray(np.uint8(np.stack([mask * 9, mask * 255], -1)), "LA"), "PNG"),
    "opaque RGBA": lambda mask: stored(Image.fromarray(grey(mask * 255)).convert("RGBA"), "PNG"),
    "opaque grey with alpha": lambda mask: stored(Image.fromarray(np.uint8(mask * 255)).convert("LA"), "PNG"),
    "16-bit PNG": lambda mask: stored(Image.fromarray(mask.astype(np.uint16) * 65535), "PNG"),
    "16-bit TIFF": lambda mask: stored(Image.fromarray(mask.astype(np.uint16) * 4095), "TIFF"),
    "32-bit TIFF": lambda mask: stored(Image.fromarray(mask.astype(np.int32)), "TIFF"),
    "float TIFF": lambda mask: stored(Image.fromarray(mask.astype(np.float32)), "TIFF"),
    "CMYK JPEG": lambda mask: stored(Image.fromarray(grey(mask * 255)).convert("CMYK"), "JPEG"),
    "turned PNG": lambda mask: stored(
        Image.fromarray(np.rot90(mask * np.uint8(255)).copy()), "PNG", exif=orientation(6)
    ),
}

# 8 x 8 blocks, which JPEG keeps flat, with foreground and background, like every reference mask.
masks = (
    arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=5))
    .filter(lambda mask: mask.any() and not mask.all())
    .map(lambda mask: np.kron(mask, np.ones((8, 8), bool)))
)


@pytest.mark.parametrize("drawing", DRAWINGS)
@settings(max_examples=8, deadline=None)
@given(mask=masks)
def test_mask_drawn_in_any_way_is_read_back_identically(drawing, mask):
    found = to_mask(DRAWINGS[drawing](mask))
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, mask)


# Drawings whose alpha or noise is not constant even without a subject.
NEVER_BLANK = {"soft-edged grey PNG", "photo erased around the subject", "black subject cut out of white"}


@pytest.mark.parametrize("drawing", [name for name in DRAWINGS if name not in NEVER_BLANK])
def test_empty_drawing_gives_empty_mask(drawing):
    assert not to_mask(DRAWINGS[drawing](np.zeros((8, 16), bool))).any()


@pytest.mark.parametrize("drawing", ["bool array", "0/1 grey PNG", "PerSeg palette", "green RGB", "opaque RGBA"])
def test_full_drawing_gives_full_mask(drawing):
    assert to_mask(DRAWINGS[drawing](np.ones((8, 16), bool))).all()


@pytest.mark.parametrize("drawing", [name for name in DRAWINGS if name != "soft-edged grey PNG"])
@settings(max_examples=4, deadline=None)
@given(mask=masks)
def test_mask_without_greys_has_only_black_and_white_levels(drawing, mask):
    found = to_levels(DRAWINGS[drawing](mask))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, mask * np.uint8(255))


@pytest.mark.parametrize("kind", ["L", "I;16", "F", "RGB", "alpha"])
def test_grey_levels_are_weights(kind):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    drawn = {
        "L": lambda: stored(Image.fromarray(levels), "PNG"),
        "I;16": lambda: stored(Image.fromarray(levels.astype(np.uint16) * 257), "PNG"),
        "F": lambda: stored(Image.fromarray(levels.astype(np.float32) / 255), "TIFF"),
        "RGB": lambda: stored(Image.fromarray(grey(levels)), "PNG"),
        "alpha": lambda: stored(
            Image.fromarray(np.concatenate([grey(levels * 0 + 90), levels[..., None]], -1)), "PNG"
        ),
    }[kind]()
    expected = np.where(levels <= 3, 0, np.where(levels >= 252, 255, levels))
    assert np.abs(to_levels(drawn).astype(int) - expected).max() <= (1 if kind == "F" else 0)


def test_nearly_black_lossy_mask_is_empty():
    noise = np.random.default_rng(0).integers(0, 4, (64, 64), dtype=np.uint8)
    for drawn in (Image.fromarray(noise), stored(Image.fromarray(grey(noise // 2)), "WEBP", quality=80), noise):
        assert not to_mask(drawn).any() and not to_levels(drawn).any()
    ones = np.eye(8, dtype=np.uint8)  # numbers, not noise
    assert to_mask(ones).sum() == 8 and (to_levels(ones) == ones * 255).all()


def test_soft_edge_is_thresholded_at_half_of_brightest_level():
    np.testing.assert_array_equal(to_mask(np.array([[0, 100, 101, 200]], np.uint8)), [[False, False, True, True]])


def test_soft_alpha_is_thresholded_at_half_of_most_opaque():
    alpha = np.array([[0, 100, 101, 200]], np.uint8)
    image = Image.fromarray(np.concatenate([grey([[255] * 4]), alpha[..., None]], axis=-1))
    np.testing.assert_array_equal(to_mask(image), [[False, False, True, True]])


def test_every_palette_colour_counts_however_dim():
    file = palette_image([[0, 1, 2, 3]], [(0, 0, 0), (128, 0, 0), (0, 0, 32), (255, 255, 255)])
    np.testing.assert_array_equal(to_mask(file), [[False, True, True, True]])


def test_rotated_mask_fits_its_rotated_photo(upright):
    mask = np.array([[True, False, False], [False, False, True]])
    for number, turn in STORED_BY_ORIENTATION.items():
        photo = stored(Image.fromarray(turn(upright).copy()), "PNG", exif=orientation(number))
        drawn = stored(Image.fromarray(turn(mask * np.uint8(255)).copy()), "PNG", exif=orientation(number))
        np.testing.assert_array_equal(rgb_of(photo)[to_mask(drawn)], upright[mask])


def test_nan_counts_as_background():
    np.testing.assert_array_equal(to_mask(np.array([[np.nan, 1.0]])), [[False, True]])


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 0), (4, 4, 5), (3, 64, 64), (1, 4, 4, 1)], ids=str)
def test_array_of_wrong_shape_is_refused_in_one_line(shape):
    with pytest.raises(UserError) as refusal:
        to_mask(np.zeros(shape))
    assert str(shape) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_colour_of_opaque_palette_with_alpha_table_counts():
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([0, 0, 0, 64, 0, 0, 192, 0, 0])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes([255] * 3))
    np.testing.assert_array_equal(to_mask(Image.open(file)), [[False, True, True]])


@pytest.mark.parametrize("tag", [0x0100, 0x0103, 0x011A, 0x0128])  # width, compression, x resolution and its unit
def test_photo_with_damaged_exif_tag_is_still_made_upright(tag):
    orientation_6 = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    text_for_a_number = struct.pack("<HHI4s", tag, 2, 4, b"odd")
    exif = (
        b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(sorted([orientation_6, text_for_a_number])) + bytes(4)
    )
    file = io.BytesIO()
    Image.new("RGB", (4, 2)).save(file, "JPEG", exif=exif)
    assert to_rgb(Image.open(file)).size == (2, 4)
