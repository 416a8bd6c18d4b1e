"""Guards the way from a photo's pixels to the model's square and back."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from persam_dreambooth.segmentation.geometry import PIXEL_MEAN, PIXEL_STD, Frame, bounding_box

quick = settings(max_examples=30, deadline=None)

# Down to photos of one row or one column, up and down in scale; no side shrinks below half a pixel.
frames = st.builds(Frame, height=st.integers(1, 120), width=st.integers(1, 120), side=st.sampled_from([64, 96, 128]))


def normalized(image):
    """(H, W, 3) levels to (3, H, W), by SAM's statistics."""
    return ((image - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)).transpose(2, 0, 1)


@quick
@given(frames)
@example(Frame(1, 100, 128))
@example(Frame(100, 1, 64))
@example(Frame(1, 1, 64))
def test_the_long_side_fills_the_square_and_the_short_one_keeps_the_proportion(frame):
    height, width = frame.resized
    assert max(height, width) == frame.side
    scale = frame.side / max(frame.height, frame.width)
    assert abs(height - frame.height * scale) <= 0.5
    assert abs(width - frame.width * scale) <= 0.5


@quick
@given(frames, st.data())
def test_points_come_back_from_the_model_frame(frame, data):
    x, y = data.draw(st.integers(0, frame.width - 1)), data.draw(st.integers(0, frame.height - 1))
    there = frame.to_model(torch.tensor([[x, y]]))
    assert there.dtype == torch.float32
    height, width = frame.resized
    back = there * torch.tensor([frame.width / width, frame.height / height])
    torch.testing.assert_close(back, torch.tensor([[x, y]], dtype=torch.float32), rtol=1e-5, atol=1e-5)


@quick
@given(frames)
def test_the_photos_far_corner_is_the_resized_photos(frame):
    height, width = frame.resized
    corner = frame.to_model(torch.tensor([frame.width, frame.height]))
    torch.testing.assert_close(corner, torch.tensor([width, height], dtype=torch.float32))


def test_points_are_x_first_and_of_any_leading_shape():
    frame = Frame(height=10, width=40, side=80)
    points = torch.tensor([[[3, 1], [7, 9]]])
    torch.testing.assert_close(frame.to_model(points), points.float() * 2)
    assert points.tolist() == [[[3, 1], [7, 9]]]


@quick
@given(frames, st.floats(-5, 5, width=32), st.integers(1, 3))
@example(Frame(1, 100, 128), 1.0, 1)
def test_a_constant_map_stays_constant_on_the_photo(frame, value, maps):
    found = frame.to_original(torch.full((maps, 16, 16), value))
    assert found.shape == (maps, frame.height, frame.width)
    torch.testing.assert_close(found, torch.full_like(found, value))


@quick
@given(frames)
def test_a_map_over_the_square_lands_on_the_photo_where_it_lay(frame):
    centres = torch.arange(frame.side) + 0.5
    model_x, model_y = torch.meshgrid(centres, centres, indexing="xy")
    found = frame.to_original(torch.stack([model_x, model_y]))
    height, width = frame.resized
    x = (torch.arange(frame.width) + 0.5) * width / frame.width
    y = (torch.arange(frame.height) + 0.5) * height / frame.height
    # Half a pixel: bilinear enlargement repeats the outermost pixel's centre to the edge.
    assert (found[0] - x).abs().max() <= 0.5 + 1e-4
    assert (found[1] - y[:, None]).abs().max() <= 0.5 + 1e-4


@quick
@given(frames)
@example(Frame(1, 100, 128))
@example(Frame(100, 1, 128))
def test_pixels_are_one_normalized_colour_in_the_photo_and_zero_in_the_padding(frame):
    colour = np.array([200, 100, 0], np.uint8)
    pixels = frame.pixels(np.full((frame.height, frame.width, 3), colour, np.uint8))
    assert pixels.shape == (3, frame.side, frame.side)
    assert pixels.dtype == torch.float32
    height, width = frame.resized
    expected = np.zeros(pixels.shape)
    expected[:, :height, :width] = normalized(colour[None, None])
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (40, 64), (64, 40), (1, 64)], ids=str)
def test_pixels_of_a_photo_that_already_fits_are_its_own_normalized(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels = Frame(*shape, side=64).pixels(image)
    np.testing.assert_allclose(pixels[:, : shape[0], : shape[1]], normalized(image), atol=1e-5)


@quick
@given(st.integers(1, 60), st.sampled_from([16, 64, 128]))
def test_a_square_photo_needs_no_padding(edge, side):
    photo_map = torch.rand(edge, edge, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Frame(edge, edge, side).pad_to_square(photo_map, value=-9), photo_map)


@quick
@given(frames)
def test_padding_lies_right_and_below_and_holds_the_value(frame):
    photo_map = torch.rand(frame.height, frame.width, generator=torch.Generator().manual_seed(0))
    padded = frame.pad_to_square(photo_map, value=-9)
    assert torch.equal(padded[: frame.height, : frame.width], photo_map)
    assert (padded[frame.height :] == -9).all()
    assert (padded[:, frame.width :] == -9).all()


@quick
@given(frames)
@example(Frame(1, 100, 128))
def test_the_photo_takes_the_same_part_of_the_padded_map_as_of_the_square(frame):
    padded = frame.pad_to_square(torch.zeros(frame.height, frame.width), value=0)
    for edge, resized, whole in zip((frame.height, frame.width), frame.resized, padded.shape, strict=True):
        assert abs(whole - edge * frame.side / resized) <= 0.5


@quick
@given(frames.filter(lambda frame: 2 * min(frame.resized) >= max(frame.height, frame.width)))
def test_the_padded_map_is_square_to_within_a_pixel(frame):
    # The filter: where one model pixel is more than two of the photo's, its rounding alone is more than one.
    height, width = frame.pad_to_square(torch.zeros(frame.height, frame.width), value=0).shape
    assert abs(height - width) <= 1


@settings(max_examples=100, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_the_bounding_box_is_the_one_numpy_finds(mask):
    box = bounding_box(torch.from_numpy(mask))
    if not mask.any():
        assert box is None
        return
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert box.dtype == torch.int64
    assert box.tolist() == [columns[0], rows[0], columns[-1], rows[-1]]


def test_the_bounding_box_of_nothing_is_none_and_of_one_pixel_that_pixel():
    mask = torch.zeros(5, 7, dtype=torch.bool)
    assert bounding_box(mask) is None
    mask[2, 6] = True
    assert bounding_box(mask).tolist() == [6, 2, 6, 2]
