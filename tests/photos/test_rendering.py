"""Pictures for people: overlays show the mask exactly, sheets show every picture."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter

from persam_dreambooth.photos import rendering

SIDES = st.integers(1, 40)


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def disc(height, width):
    y, x = np.mgrid[:height, :width]
    return (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 4) ** 2


def ring(mask, stroke):
    """Return (H, W) bool: outside the mask, but within `stroke` pixels of it."""
    grown = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * stroke + 1))
    return (np.asarray(grown) > 0) & ~mask


def dimmed(photo):
    return np.round(np.asarray(photo) * rendering.BACKGROUND_LIGHT)


# Overlays


@settings(deadline=None, max_examples=60)
@given(data=st.data(), height=SIDES, width=SIDES, seed=st.integers(0, 2**16))
def test_overlay_keeps_subject_dims_background_and_outlines_mask(data, height, width, seed):
    photo, mask = noise(height, width, seed), data.draw(arrays(np.bool_, (height, width)))
    picture = np.asarray(rendering.overlay(photo, mask))
    outline = ring(mask, 1)
    background = ~mask & ~outline
    np.testing.assert_array_equal(picture[mask], np.asarray(photo)[mask])
    np.testing.assert_array_equal(picture[background], dimmed(photo)[background])
    assert (picture[outline] == rendering.OUTLINE).all()


def test_outline_is_thicker_on_large_photo():
    photo, mask = noise(600, 800), disc(600, 800)
    picture = np.asarray(rendering.overlay(photo, mask))
    drawn = (picture == rendering.OUTLINE).all(axis=-1)
    np.testing.assert_array_equal(drawn & ~mask, ring(mask, 2))
    np.testing.assert_array_equal(picture[mask], np.asarray(photo)[mask])


def test_drawing_overlay_does_not_modify_photo_or_mask():
    photo, mask = noise(30, 40), disc(30, 40)
    levels, inside = np.asarray(photo).copy(), mask.copy()
    rendering.overlay(photo, mask, [(3, 4)], [1])
    np.testing.assert_array_equal(np.asarray(photo), levels)
    np.testing.assert_array_equal(mask, inside)


@pytest.mark.parametrize("corner", [(0, 0), (99, 0), (0, 79), (99, 79), (50, 40)])
def test_points_are_drawn_at_their_place_in_their_colour(corner):
    photo, mask = noise(80, 100), disc(80, 100)
    other = (30, 60)
    picture = rendering.overlay(photo, mask, [corner, other], [1, 0])
    assert picture.getpixel(corner) == rendering.POSITIVE
    assert picture.getpixel(other) == rendering.NEGATIVE
    y, x = np.mgrid[:80, :100]
    far = np.min([np.hypot(x - px, y - py) for px, py in (corner, other)], axis=0) > 7
    plain = np.asarray(rendering.overlay(photo, mask))
    np.testing.assert_array_equal(np.asarray(picture)[far], plain[far])


def test_point_without_label_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        rendering.overlay(noise(9, 9), disc(9, 9), [(1, 1), (2, 2)], [1])


# Sheets


def colours(count):
    """Pictures of one colour each, all different and none of them grey."""
    return [(255 - 2 * number, 10 + 2 * number, 128) for number in range(count)]


def plain(colour, size=(10, 10)):
    return Image.new("RGB", size, colour)


def page(count, columns=None, tile=64, size=(10, 10)):
    return rendering.sheet([plain(colour, size) for colour in colours(count)], ["x"] * count, columns, tile)


def pitch(tile):
    """Return the distance between a sheet's tiles, (x, y) in pixels."""
    single, row, column = page(1, 1, tile), page(2, 2, tile), page(2, 1, tile)
    return row.width - single.width, column.height - single.height


def pixels_of(sheet, colour):
    """Return the positions of a colour, (N, 2) of (y, x)."""
    return np.argwhere((np.asarray(sheet) == colour).all(axis=-1))


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 20), columns=st.integers(1, 7), tile=st.sampled_from([16, 48, 96]))
def test_size_of_sheet_follows_from_columns_and_tile(count, columns, tile):
    single, (pitch_x, pitch_y) = page(1, 1, tile), pitch(tile)
    assert tile < pitch_x < pitch_y  # a margin beside each tile, and a caption below
    rows = math.ceil(count / columns)
    sheet = page(count, columns, tile)
    assert sheet.size == (single.width + (columns - 1) * pitch_x, single.height + (rows - 1) * pitch_y)


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 20),
    columns=st.none() | st.integers(1, 7),
    size=st.sampled_from([(10, 10), (200, 200), (1, 500), (500, 1), (90, 40), (40, 90), (1, 1)]),
)
def test_every_picture_is_whole_and_undistorted_in_middle_of_its_tile(count, columns, size):
    tile = 64
    pitch_x, pitch_y = pitch(tile)
    margin = page(1, 1, tile).width - pitch_x
    sheet = page(count, columns, tile, size)
    across = (sheet.width - margin) // pitch_x
    longer = max(size)
    width, height = (max(1, round(side * tile / longer)) for side in size)
    for number, colour in enumerate(colours(count)):
        row, column = divmod(number, across)
        places = pixels_of(sheet, colour)
        assert len(places) == width * height
        (top, left), (bottom, right) = places.min(axis=0), places.max(axis=0)
        assert (right - left + 1, bottom - top + 1) == (width, height)
        centre_y, centre_x = margin + row * pitch_y + tile / 2, margin + column * pitch_x + tile / 2
        assert abs((left + right + 1) / 2 - centre_x) <= 1
        assert abs((top + bottom + 1) / 2 - centre_y) <= 1


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (24, 4), (25, 5), (100, 6)])
def test_by_default_sheet_has_four_columns_or_more_for_many_pictures(count, columns):
    assert page(count, tile=16).size == page(count, columns, tile=16).size


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_sheet_takes_pictures_of_any_mode(mode):
    sheet = rendering.sheet([plain((255, 255, 255)).convert(mode), plain((255, 0, 0))], ["white", "red"], 2, 64)
    assert len(pixels_of(sheet, (255, 255, 255))) == len(pixels_of(sheet, (255, 0, 0))) == 64 * 64


@pytest.mark.parametrize("caption", ["a sks dog in the jungle, very detailed, seed 12345", "W" * 300, "犬" * 200])
def test_long_caption_ends_within_its_tile(caption):
    sheet = np.asarray(rendering.sheet([plain(colour) for colour in colours(2)], [caption, ""], 2, 64))
    blank = np.asarray(rendering.sheet([plain(colour) for colour in colours(2)], ["", ""], 2, 64))
    written = np.argwhere((sheet != blank).any(axis=-1))
    assert len(written) > 0
    assert written[:, 1].max() <= pixels_of(sheet, colours(2)[0])[:, 1].max()
    assert written[:, 0].min() > pixels_of(sheet, colours(2)[0])[:, 0].max()


def test_captions_tell_pictures_apart():
    dog, cat = (np.asarray(rendering.sheet([plain((255, 0, 0))], [text], 1, 64)) for text in ("dog", "cat"))
    assert (dog != cat).any()


def test_picture_without_caption_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        rendering.sheet([plain((255, 0, 0))] * 2, ["one"])


def test_joined_pictures_keep_their_pixels():
    first, second = Image.new("RGB", (3, 2), "red"), Image.new("RGB", (5, 4), "blue")
    below, beside = rendering.joined([first, second]), rendering.joined([first, second], across=True)
    assert (below.size, beside.size) == ((5, 6), (8, 4))
    for page, corner in ((below, (0, 2)), (beside, (3, 0))):
        assert (np.asarray(page.crop((0, 0, 3, 2))) == np.asarray(first)).all()
        left, top = corner
        assert (np.asarray(page.crop((left, top, left + 5, top + 4))) == np.asarray(second)).all()
    assert below.getpixel((4, 0)) == rendering.PAPER


@settings(deadline=None)
@given(arrays(bool, st.tuples(SIDES, SIDES)), st.integers(1, 12))
def test_dilation_is_maximum_over_square(mask, pixels):
    expected = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * pixels + 1))
    np.testing.assert_array_equal(rendering.dilated(mask, pixels), np.asarray(expected) > 0)


def test_single_pixel_is_dilated_by_exactly_given_radius():
    mask = np.zeros((600, 600), bool)
    mask[300, 300] = True
    assert rendering.dilated(mask, 250).sum() == 501**2
