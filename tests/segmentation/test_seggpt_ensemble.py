"""SegGPT's two ensembles: what is averaged, and how examples are tiled."""

import pytest
import torch

from persam_dreambooth.segmentation.seggpt_ensemble import feature_ensemble, spatial_ensemble
from tests.segmentation.test_seggpt import random_seggpt

CORNERS = [(0, 0), (0, -1), (-1, 0), (-1, -1)]


def outputs(model, count, rows):
    """Call the first attention layer on (B, 2h, w, C) rows within a feature ensemble of `count` examples."""
    with torch.no_grad(), feature_ensemble(model, count):
        return model.model.encoder.layers[0].attention(rows)[0]


@pytest.mark.parametrize("parts", [2, 1], ids=["photos and masks", "merged"])
def test_photo_is_averaged_over_examples_and_examples_are_not(parts):
    model, count = random_seggpt(), 3
    grid, width = (8, 4), model.config.hidden_size  # the lower four rows are the photo's
    rows = torch.randn(parts * count, *grid, width, generator=torch.Generator().manual_seed(0))
    plain, found = outputs(model, 1, rows), outputs(model, count, rows)
    torch.testing.assert_close(found[:, :4], plain[:, :4])
    for part in range(parts):  # the photos of all examples come first, then the masks
        own = slice(part * count, (part + 1) * count)
        mean = plain[own, 4:].mean(0)
        assert not torch.allclose(plain[own, 4:], mean.expand(count, -1, -1, -1), atol=1e-2)
        torch.testing.assert_close(found[own, 4:], mean.expand(count, -1, -1, -1))


def test_ensemble_ends_with_its_block_even_after_an_error():
    model = random_seggpt()
    with pytest.raises(ZeroDivisionError), feature_ensemble(model, 2):
        assert all(layer.attention._forward_hooks for layer in model.model.encoder.layers)
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())


def test_spatial_ensemble_tiles_examples():
    levels = torch.tensor([40, 120, 200], dtype=torch.uint8)
    images = levels.view(3, 1, 1, 1).expand(3, 3, 8, 8)
    masks = torch.tensor([True, False, True]).view(3, 1, 1).expand(3, 8, 8)
    image, mask = spatial_ensemble(images, masks)
    assert image.shape == (1, 3, 8, 8) and mask.shape == (1, 8, 8)
    assert (image.dtype, mask.dtype) == (torch.uint8, torch.bool)
    assert [int(image[0, 0, y, x]) for y, x in CORNERS] == [40, 120, 200, 40]  # the fourth place repeats the first
    assert [bool(mask[0, y, x]) for y, x in CORNERS] == [True, False, True, True]


@pytest.mark.parametrize(("count", "across"), [(1, 1), (4, 2), (5, 3)])
def test_grid_is_the_smallest_square_that_holds_all_examples(count, across):
    levels = torch.arange(20, 20 * count + 1, 20, dtype=torch.uint8)
    images = levels.view(count, 1, 1, 1).expand(count, 3, 12, 12)
    image, _ = spatial_ensemble(images, torch.ones(count, 12, 12, dtype=torch.bool))
    middles = (torch.arange(across) * 2 + 1) * 12 // (2 * across)
    placed = (image[0, 0][middles][:, middles].flatten() / 20).round()  # shrinking changes a level by 1 or 2
    assert placed.tolist() == [number % count + 1 for number in range(across**2)]
