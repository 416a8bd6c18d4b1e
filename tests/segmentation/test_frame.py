"""The mapping between a photo's pixels and the model's square input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from persam_dreambooth.segmentation.frame import PIXEL_MEAN, PIXEL_STD, Frame, bounding_box

quick = settings(max_examples=30, deadline=None)

# Photos down to one row or column, enlarged and reduced; no side becomes shorter than half a pixel.
frames = st.builds(Frame, height=st.integers(1, 120), width=st.integers(1, 120), side=st.sampled_from([64, 96, 128]))

bordered = st.builds(
    Frame,
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    side=st.sampled_from([64, 96, 128]),
    stretch=st.booleans(),
    border=st.integers(0, 16),
)


def normalized(image):
    """Normalize (H, W, 3) levels by SAM's statistics; return (3, H, W)."""
    return ((image - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)).transpose(2, 0, 1)


@quick
@given(frames)
@example(Frame(1, 100, 128))
@example(Frame(100, 1, 64))
@example(Frame(1, 1, 64))
def test_long_side_fills_square_and_aspect_ratio_is_kept(frame):
    height, width = frame.resized
    assert max(height, width) == frame.side
    scale = frame.side / max(frame.height, frame.width)
    assert abs(height - frame.height * scale) <= 0.5
    assert abs(width - frame.width * scale) <= 0.5


@quick
@given(bordered, st.data())
def test_points_round_trip_through_model_frame(frame, data):
    x, y = data.draw(st.integers(0, frame.width - 1)), data.draw(st.integers(0, frame.height - 1))
    there = frame.to_model(torch.tensor([[x, y]]))
    assert there.dtype == torch.float32
    height, width = frame.resized
    back = (there - frame.border) * torch.tensor([frame.width / width, frame.height / height])
    torch.testing.assert_close(back, torch.tensor([[x, y]], dtype=torch.float32), rtol=1e-4, atol=1e-4)


@quick
@given(frames)
def test_far_corner_maps_to_resized_far_corner(frame):
    height, width = frame.resized
    corner = frame.to_model(torch.tensor([frame.width, frame.height]))
    torch.testing.assert_close(corner, torch.tensor([width, height], dtype=torch.float32))


def test_points_are_xy_with_any_leading_shape():
    frame = Frame(height=10, width=40, side=80)
    points = torch.tensor([[[3, 1], [7, 9]]])
    torch.testing.assert_close(frame.to_model(points), points.float() * 2)
    assert points.tolist() == [[[3, 1], [7, 9]]]


@quick
@given(bordered, st.floats(-5, 5, width=32), st.integers(1, 3))
@example(Frame(1, 100, 128), 1.0, 1)
def test_constant_map_stays_constant_on_photo(frame, value, maps):
    found = frame.to_original(torch.full((maps, 16, 16), value))
    assert found.shape == (maps, frame.height, frame.width)
    torch.testing.assert_close(found, torch.full_like(found, value))


@quick
@given(bordered)
def test_map_on_square_keeps_position_on_photo(frame):
    centres = torch.arange(frame.side) + 0.5
    model_x, model_y = torch.meshgrid(centres, centres, indexing="xy")
    found = frame.to_original(torch.stack([model_x, model_y]))
    height, width = frame.resized
    x = (torch.arange(frame.width) + 0.5) * width / frame.width + frame.border
    y = (torch.arange(frame.height) + 0.5) * height / frame.height + frame.border
    # Half a pixel: bilinear enlargement repeats the outermost pixel's centre to the edge.
    assert (found[0] - x).abs().max() <= 0.5 + 1e-4
    assert (found[1] - y[:, None]).abs().max() <= 0.5 + 1e-4


@quick
@given(frames)
@example(Frame(1, 100, 128))
@example(Frame(100, 1, 128))
def test_pixels_are_normalized_and_padding_is_zero(frame):
    colour = np.array([200, 100, 0], np.uint8)
    pixels = frame.pixels(np.full((frame.height, frame.width, 3), colour, np.uint8))
    assert pixels.shape == (3, frame.side, frame.side)
    assert pixels.dtype == torch.float32
    height, width = frame.resized
    expected = np.zeros(pixels.shape)
    expected[:, :height, :width] = normalized(colour[None, None])
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (40, 64), (64, 40), (1, 64)], ids=str)
def test_fitting_photo_is_normalized_without_resizing(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels = Frame(*shape, side=64).pixels(image)
    np.testing.assert_allclose(pixels[:, : shape[0], : shape[1]], normalized(image), atol=1e-5)


@quick
@given(st.integers(1, 60), st.sampled_from([16, 64, 128]), st.booleans())
def test_square_photo_maps_directly_to_grid(edge, side, stretch):
    frame = Frame(edge, edge + 7 if stretch else edge, side, stretch)
    photo_map = torch.rand(frame.height, frame.width, generator=torch.Generator().manual_seed(0))
    directly = F.interpolate(photo_map[None, None], (8, 8), mode="bilinear", align_corners=False)[0, 0]
    assert torch.equal(frame.to_grid(photo_map, 8, -9, "bilinear"), directly)


@quick
@given(bordered, st.sampled_from(["bilinear", "area"]))
@example(Frame(1, 100, 128), "area")
@example(Frame(100, 1, 128), "bilinear")
def test_grid_padding_is_right_and_below_with_given_value(frame, mode):
    grid = frame.to_grid(torch.ones(frame.height, frame.width), frame.side, -9, mode)
    assert grid.shape == (frame.side, frame.side)
    height, width = (edge + 2 * frame.border for edge in frame.resized)
    expected = torch.full_like(grid, -9)
    expected[:height, :width] = 1
    torch.testing.assert_close(grid, expected)


@quick
@given(bordered, st.data())
@example(Frame(1, 100, 128), None)
def test_map_position_on_grid_matches_photo_in_square(frame, data):
    """At a photo's point, the resampled map has the value of the photo's map."""
    x = (torch.arange(frame.width) + 0.5).repeat(frame.height, 1)
    grid = frame.to_grid(x, frame.side, 0.0, "bilinear")
    column = data.draw(st.integers(0, frame.width - 1)) if data else frame.width // 2
    point = frame.to_model(torch.tensor([[column + 0.5, frame.height / 2]]))[0]
    found = grid[int(point[1]), int(point[0])]
    # Half a model pixel of rounding, or half a pixel of the photo at its edge.
    assert abs(found - (column + 0.5)) <= 0.5 + frame.width / frame.resized[1]


@quick
@given(bordered)
def test_thin_mask_keeps_its_area_on_grid(frame):
    mask = torch.zeros(frame.height, frame.width)
    mask[frame.height // 2] = 1
    assert frame.to_grid(mask, 16, 0.0, "area").max() > 0


@quick
@given(bordered, st.integers(0, 2**31 - 1))
def test_border_repeats_photo_edge(frame, seed):
    image = np.random.default_rng(seed).integers(0, 256, (frame.height, frame.width, 3), dtype=np.uint8)
    pixels, (height, width), border = frame.pixels(image), frame.resized, frame.border
    inside = pixels[:, border : border + height, border : border + width]
    assert torch.equal(
        inside, replace(frame, side=frame.side - 2 * border, border=0).pixels(image)[:, :height, :width]
    )
    repeated = F.pad(inside, (border,) * 4, mode="replicate") if border else inside
    assert torch.equal(pixels[:, : height + 2 * border, : width + 2 * border], repeated)
    assert not pixels[:, height + 2 * border :].any()
    assert not pixels[:, :, width + 2 * border :].any()


@quick
@given(bordered)
def test_corners_with_border_match_photo_position(frame):
    corners = frame.box_to_model(torch.tensor([0, 0, frame.width, frame.height]))
    height, width = frame.resized
    expected = torch.tensor([0, 0, width, height]) + frame.border
    torch.testing.assert_close(corners, expected.float())


def test_memory_of_narrow_photo_depends_on_its_pixels():
    """A square of the photo's longer side would have 400 million pixels."""
    frame = Frame(1, 20000, 64, border=4)
    tracked = frame.to_grid(torch.ones(1, 20000), 16, 0.0, "area")
    assert tracked.shape == (16, 16)
    assert tracked[1, 1:-1].min() > 0


@settings(max_examples=100, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_bounding_box_matches_numpy(mask):
    box = bounding_box(torch.from_numpy(mask))
    if not mask.any():
        assert box is None
        return
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert box.dtype == torch.int64
    assert box.tolist() == [columns[0], rows[0], columns[-1], rows[-1]]


def test_bounding_box_of_empty_and_one_pixel_masks():
    mask = torch.zeros(5, 7, dtype=torch.bool)
    assert bounding_box(mask) is None
    mask[2, 6] = True
    assert bounding_box(mask).tolist() == [6, 2, 6, 2]


# Stretched photos

stretched = st.builds(
    Frame, st.integers(1, 120), st.integers(1, 120), st.sampled_from([64, 96, 128]), stretch=st.just(True)
)


@quick
@given(stretched, st.data())
def test_points_in_stretched_photo_round_trip(frame, data):
    x, y = data.draw(st.integers(0, frame.width - 1)), data.draw(st.integers(0, frame.height - 1))
    there = frame.to_model(torch.tensor([[x, y]]))
    assert ((there >= 0) & (there < frame.side)).all()
    back = there * torch.tensor([frame.width, frame.height]) / frame.side
    torch.testing.assert_close(back, torch.tensor([[x, y]], dtype=torch.float32), rtol=1e-5, atol=1e-4)


@quick
@given(stretched)
def test_map_covers_whole_stretched_photo(frame):
    centres = torch.arange(frame.side) + 0.5
    found = frame.to_original(torch.stack(torch.meshgrid(centres, centres, indexing="xy")))
    assert found.shape == (2, frame.height, frame.width)
    x = (torch.arange(frame.width) + 0.5) * frame.side / frame.width
    y = (torch.arange(frame.height) + 0.5) * frame.side / frame.height
    # Half a pixel: bilinear enlargement repeats the outermost pixel's centre to the edge.
    assert (found[0] - x).abs().max() <= 0.5 + 1e-4
    assert (found[1] - y[:, None]).abs().max() <= 0.5 + 1e-4


@quick
@given(stretched)
def test_stretched_photo_has_no_padding(frame):
    colour = np.array([200, 100, 0], np.uint8)
    pixels = frame.pixels(np.full((frame.height, frame.width, 3), colour, np.uint8))
    expected = (torch.from_numpy(colour).float() - torch.tensor(frame.mean)) / torch.tensor(frame.std)
    torch.testing.assert_close(pixels, expected[:, None, None].expand_as(pixels))
    photo_map = torch.rand(frame.height, frame.width)
    directly = torch.nn.functional.interpolate(photo_map[None, None], (8, 8), mode="area")[0, 0]
    assert torch.equal(frame.to_grid(photo_map, 8, -9, "area"), directly)
