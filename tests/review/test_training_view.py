"""The page shows exactly the crop and the latent mask that training uses."""

import numpy as np
import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.review.training_view import TrainingView
from persam_dreambooth.training.config import DataConfig
from persam_dreambooth.training.data.samples import FreshSamples
from persam_dreambooth.training.losses import latent_mask
from tests.review.albums import draw_photos


@pytest.fixture
def pair(tmp_path):
    """A photo of 96 x 40 pixels and its mask."""
    (mask,) = draw_photos(tmp_path, ["wide.png"], 40, 96).values()
    files.write_mask(mask, tmp_path / "mask.png")
    return tmp_path / "wide.png", tmp_path / "mask.png"


@pytest.mark.parametrize("downsample", ["area", "nearest", "max", "min"])
@pytest.mark.parametrize("center", [True, False])
def test_preview_equals_training_sample(pair, downsample, center):
    view = TrainingView(32, 4, center, downsample, 1, seed=3)
    picture, words = view.draw(*pair)
    assert picture.size == (64, 32)
    levels = np.asarray(picture)
    torch.manual_seed(3)
    sample = FreshSamples(DataConfig(resolution=32, center_crop=center))(pair[0], pair[1:], (32, 32))
    latent = latent_mask(sample["mask"][None], (8, 8), downsample, 1)[0, 0].numpy()
    np.testing.assert_array_equal(levels[::4, 32::4, 0], (latent * 255).round().astype(np.uint8))
    shown = (sample["pixels"].permute(1, 2, 0).numpy() * 127.5 + 127.5).round()
    full = np.kron(latent, np.ones((4, 4))) == 1
    assert full.any()
    assert np.abs(levels[:, :32][full] - shown[full]).max() <= 1
    assert levels[:, :32][np.kron(latent, np.ones((4, 4))) == 0].mean() < 0.6 * shown.mean()
    assert words.startswith("8 × 8 latent cells") and f"covers {latent.mean():.0%}" in words


def test_seed_determines_crop(pair):
    first, second = ([TrainingView(16, 2, seed=seed).draw(*pair)[0].tobytes() for seed in range(8)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 1


@pytest.mark.parametrize("flags", [{"resolution": 4}, {"resolution": 10**6}, {"cell": 0}, {"mask_downsample": "sum"}])
def test_invalid_flags_are_refused(flags):
    with pytest.raises(UserError, match=r"choose|must be area"):
        TrainingView(**flags)


def test_mismatched_mask_is_refused(pair):
    files.write_mask(np.ones((8, 8), bool), pair[1])
    with pytest.raises(UserError, match="does not have the photo's size"):
        TrainingView(32, 4).draw(*pair)
