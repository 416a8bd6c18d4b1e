"""EdgeSAM: its image encoder at any size, and the authors' names of its weights."""

import torch

from persam_dreambooth.segmentation.backbones.edge_sam import BLOCKS, build_edge_sam, from_published
from random_models import draw_weights
from tests.parity.small_sams import published_shapes


def named(shapes):
    """Return weights without values under the authors' names."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_two_last_stages_are_summed_on_cells_of_16_pixels():
    encoder = draw_weights(build_edge_sam(64), 0).image_encoder
    assert encoder.img_size == 64
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = encoder(pixels)
        assert found.shape == (2, 256, 4, 4)
        assert not torch.allclose(found[0], found[1], atol=1e-2)
        for stage in (encoder.fuse_stage2, encoder.fuse_stage3):
            weight = stage.weight.clone()
            stage.weight.zero_()
            assert not torch.allclose(encoder(pixels), found, atol=1e-2)
            stage.weight.copy_(weight)


def test_each_of_the_authors_weights_has_its_place():
    sam, weights = from_published(named(published_shapes("edge_sam")))
    own = {name: weight.shape for name, weight in sam.state_dict().items()}
    assert {name: weight.shape for name, weight in weights.items()} == own


def test_blocks_are_numbered_across_stages_with_a_transition_before_each_but_the_first():
    total = 1 + sum(BLOCKS) + len(BLOCKS) - 1  # with the stem
    inside = "channel_mixer.m.0.c.weight"
    state = {f"image_encoder.features.{number}.{inside}": torch.ones(1) * number for number in range(1, total)}
    _, weights = from_published(state)
    transitions = {name: int(weight) for name, weight in weights.items() if ".downsample.ffn.conv1." in name}
    assert [int(name.split("stages.")[1][0]) for name in transitions] == [1, 2, 3]
    assert list(transitions.values()) == [4, 8, 24]
    assert int(weights["image_encoder.trunk.stages.3.blocks.1.channel_mixer.conv1.c.weight"]) == total - 1
