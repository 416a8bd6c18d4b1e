"""MobileSAM: its image encoder at any size, and the authors' names of its weights."""

import torch

from persam_dreambooth.segmentation.backbones.mobile_sam import RENAMED, build_mobile_sam, from_published
from persam_dreambooth.segmentation.backbones.published import renamed
from random_models import draw_weights
from tests.parity.small_sams import published_shapes


def named(shapes):
    """Return weights without values under the authors' names."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_last_stage_keeps_the_resolution_of_the_third():
    encoder = draw_weights(build_mobile_sam(64), 0).image_encoder
    assert encoder.img_size == 64
    with torch.no_grad():
        found = encoder(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (2, 256, 4, 4)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_each_of_the_authors_weights_has_its_place():
    sam, weights = from_published(named(published_shapes("mobile_sam")))
    own = {name: weight.shape for name, weight in sam.state_dict().items()}
    assert {name: weight.shape for name, weight in weights.items()} == own


def test_transitions_belong_to_the_following_stage():
    state = {f"image_encoder.layers.{stage}.downsample.conv1.c.weight": torch.ones(1) * stage for stage in range(3)}
    others = "image_encoder.layers.3.blocks.1.mlp.fc1.weight", "image_encoder.neck.0.weight"
    weights = renamed(state | dict.fromkeys(others, torch.ones(1)), RENAMED)
    places = [f"image_encoder.trunk.stages.{stage + 1}.downsample.conv1.conv.weight" for stage in range(3)]
    assert [int(weights[place]) for place in places] == [0, 1, 2]
    assert set(weights) - set(places) == {
        "image_encoder.trunk.stages.3.blocks.1.mlp.fc1.weight",
        "image_encoder.neck.0.weight",
    }
