"""The parts of SAM that MobileSAM, EdgeSAM and EfficientSAM share, and PerSAM on each of them."""

import numpy as np
import pytest
import torch

from persam_dreambooth.segmentation import PerSAM, Reference, load_backbone
from persam_dreambooth.segmentation.backbones.edge_sam import build_edge_sam
from persam_dreambooth.segmentation.backbones.efficient_sam import build_efficient_sam
from persam_dreambooth.segmentation.backbones.mobile_sam import build_mobile_sam
from persam_dreambooth.segmentation.backbones.small_sam import mask_decoder, neck, small_sam
from random_models import draw_weights
from tests.parity.small_sams import published_shapes
from tests.scene import scene

SIDE = 128
BUILD = {
    "MobileSAM": build_mobile_sam,
    "EdgeSAM": build_edge_sam,
    "EfficientSAM": lambda side: build_efficient_sam(64, side),
}


def random_backbone(name):
    torch.manual_seed(0)  # the positional encoding is a buffer
    return load_backbone(draw_weights(BUILD[name](SIDE), seed=0), device="cpu")


@pytest.mark.parametrize("name", BUILD)
def test_persam_runs_on_each_and_batches_agree(name):
    persam = PerSAM(random_backbone(name))
    subject = persam.personalize(Reference(*scene(60, 100)))
    photos = [scene(90, 150)[0], scene(70, 40, seed=1)[0]]
    together = persam.segment(photos, subject)
    for photo, found in zip(photos, together, strict=True):
        assert found.mask.shape == photo.shape[:2]
        np.testing.assert_allclose(found.confidence_map, persam.segment(photo, subject).confidence_map, atol=1e-4)


def test_photos_are_placed_as_in_authors_predictors():
    placed = {name: random_backbone(name).frame(60, 120).resized for name in BUILD}
    assert placed == {"MobileSAM": (64, 128), "EdgeSAM": (64, 128), "EfficientSAM": (128, 128)}


def test_parts_have_the_names_and_shapes_of_sams():
    own = 64
    sam = small_sam(torch.nn.Identity(), own)
    published = {name: shape for name, shape in published_shapes("mobile_sam").items() if "image_encoder" not in name}
    assert {name: tuple(weight.shape) for name, weight in sam.state_dict().items()} == published
    assert sam.prompt_encoder.image_embedding_size == (own // 16, own // 16)
    assert sam.prompt_encoder.input_image_size == (own, own)


def test_decoder_has_the_given_activation_in_its_transformer():
    given = [layer.mlp.act for layer in mask_decoder(torch.nn.GELU).transformer.layers]
    assert [type(activation) for activation in given] == [torch.nn.GELU] * 2
    assert type(mask_decoder().transformer.layers[0].mlp.act) is torch.nn.ReLU


def test_neck_normalizes_each_cell():
    torch.manual_seed(0)
    found = neck(24)(torch.randn(2, 24, 3, 5) * 7)
    assert found.shape == (2, 256, 3, 5)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(1, correction=0), torch.ones(2, 3, 5), atol=1e-3, rtol=0)
