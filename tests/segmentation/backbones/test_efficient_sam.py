"""EfficientSAM: its points and boxes, its missing mask prompts, and its positions at another size."""

import pytest
import torch
from segment_anything.modeling.transformer import TwoWayAttentionBlock

from persam_dreambooth.segmentation import Prompts
from persam_dreambooth.segmentation.backbones.efficient_sam import (
    BOTTOM_RIGHT,
    LABELS,
    MOST,
    PADDING,
    TOP_LEFT,
    Block,
    EfficientSam,
    PointEncoder,
    from_published,
)
from tests.segmentation.backbones.test_small_sam import SIDE, random_backbone


def test_efficient_sam_keeps_box_and_points_on_subject_among_many():
    backbone = random_backbone("EfficientSAM")
    assert isinstance(backbone, EfficientSam)
    (embedding,) = backbone.encode(torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    points, box = torch.rand(6, 2, generator=torch.Generator().manual_seed(1)) * SIDE, torch.tensor([9.0, 9, 90, 99])
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    many = backbone.decode(embedding, Prompts(points, labels, box), multimask=True)[0]
    kept = [1, 3, 4, 0]  # all points on the subject, then the first off it
    assert len(kept) + 2 == MOST
    few = backbone.decode(embedding, Prompts(points[kept], labels[kept], box), multimask=True)[0]
    assert torch.equal(many, few)
    fewer = backbone.decode(embedding, Prompts(points[kept[:3]], labels[kept[:3]], box), multimask=True)[0]
    assert not torch.allclose(many, fewer, atol=1e-3)


def test_efficient_sam_ignores_mask_prompts():
    backbone = random_backbone("EfficientSAM")
    embedding = torch.randn(256, 8, 8, generator=torch.Generator().manual_seed(0))
    point = torch.tensor([[40.0, 50.0]]), torch.tensor([1])
    mask = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    without, given = (backbone.decode(embedding, Prompts(*point, mask=low), multimask=True)[0] for low in (None, mask))
    assert torch.equal(without, given)


def encoded_points(points, labels):
    torch.manual_seed(0)
    return PointEncoder(SIDE)(torch.tensor(points)[None], torch.tensor(labels)[None])[0]


def test_points_are_padded_to_six_and_further_ones_dropped():
    places = [[float(10 * number), 5.0] for number in range(8)]
    one, six, eight = (encoded_points(places[:count], [1] * count) for count in (1, 6, 8))
    assert one.shape == six.shape == eight.shape == (MOST, 256)
    assert torch.equal(six, eight)
    torch.testing.assert_close(one[0], six[0])
    assert torch.equal(one[1:], one[1:2].expand(MOST - 1, -1))
    torch.testing.assert_close(encoded_points([*places[:1], [-1.0, -1.0]], [1, PADDING]), one)


def test_each_label_adds_its_own_embedding():
    tokens = encoded_points([[9.0, 9.0]] * 4, [0, 1, TOP_LEFT, BOTTOM_RIGHT])
    distances = torch.cdist(tokens[:4], tokens[:4])
    assert distances[~torch.eye(4, dtype=torch.bool)].min() > 1


def test_labels_and_positions_of_the_authors_file_are_put_together():
    state = {name: torch.full((1, 256), float(label)) for label, name in LABELS.items()}
    state["image_encoder.pos_embed"] = torch.cat([torch.full((1, 1, 64), 99.0), torch.ones(1, 196, 64)], dim=1)
    sam, weights = from_published(state, SIDE)
    assert weights["prompt_encoder.labels.weight"][:, 0].tolist() == [PADDING, 0, 1, TOP_LEFT, BOTTOM_RIGHT]
    assert (weights["prompt_encoder.labels.weight"] == weights["prompt_encoder.labels.weight"][:, :1]).all()
    positions = weights["image_encoder.trunk.pos_embed"]
    torch.testing.assert_close(positions, torch.ones(1, (SIDE // 16) ** 2, 64))  # without the class token
    assert positions.shape == sam.image_encoder.trunk.pos_embed.shape


def test_positions_keep_their_place_at_another_size():
    across = torch.linspace(0, 1, 14)
    grid = torch.stack([across.expand(14, 14), across[:, None].expand(14, 14)], dim=-1)  # (x, y) of each cell
    state = {name: torch.zeros(1, 256) for name in LABELS.values()}
    channels = grid.flatten(0, 1).repeat(1, 32)
    state["image_encoder.pos_embed"] = torch.cat([torch.zeros(1, 64), channels])[None]
    _, weights = from_published(state, SIDE)
    x, y = weights["image_encoder.trunk.pos_embed"][0, :, :2].view(SIDE // 16, SIDE // 16, 2).unbind(-1)
    for rising in (x, y.T):
        torch.testing.assert_close(rising, rising[:1].expand_as(rising))
        assert (rising.diff(dim=1) > 0.05).all()


@pytest.mark.parametrize("first", [True, False])
def test_block_differs_from_sams_as_documented(first):
    """With positions of zero, both differ only in the first block's residual."""
    torch.manual_seed(0)
    block, sams = (kind(32, 2, 64, skip_first_layer_pe=first) for kind in (Block, TwoWayAttentionBlock))
    sams.load_state_dict(block.state_dict())
    queries, keys = torch.randn(1, 5, 32), torch.randn(1, 9, 32)
    query_pe, key_pe = torch.randn(1, 5, 32), torch.randn(1, 9, 32)
    with torch.no_grad():
        plain = [each(queries, keys, 0 * query_pe, 0 * key_pe)[0] for each in (block, sams)]
        placed = [each(queries, keys, query_pe, key_pe)[0] for each in (block, sams)]
    assert torch.allclose(*plain, atol=1e-5) != first
    assert not torch.allclose(*placed, atol=1e-3)
