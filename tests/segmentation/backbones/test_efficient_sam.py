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
@torch.no_grad()
def test_self_attention_sees_positions_and_keeps_its_residual(first):
    """In SAM's first block the normalized sum is the attention alone."""
    block, sams = two_blocks(first, True)
    sums, (queries, keys, query_pe, key_pe) = [], random_tokens()
    for each in (block, sams):
        each.norm1.register_forward_pre_hook(lambda module, args: sums.append(args[0]))
    placed = queries if first else queries + query_pe
    block(queries, keys, query_pe, key_pe)
    sams(placed, keys, query_pe, key_pe)
    torch.testing.assert_close(sums[0] - sums[1], placed)


@torch.no_grad()
def test_without_self_attention_the_block_is_sams():
    block, sams = two_blocks(True, False)
    for each in (block, sams):
        each.self_attn.out_proj.weight.zero_()
        each.self_attn.out_proj.bias.zero_()
    for found, expected in zip(block(*random_tokens()), sams(*random_tokens()), strict=True):
        torch.testing.assert_close(found, expected)


def two_blocks(first, sams_first):
    """Build EfficientSAM's block and SAM's from the same weights, each with or without positions at first."""
    torch.manual_seed(0)
    settings = {"embedding_dim": 32, "num_heads": 2, "mlp_dim": 64, "activation": torch.nn.GELU}
    block = Block(**settings, skip_first_layer_pe=first)
    sams = TwoWayAttentionBlock(**settings, skip_first_layer_pe=sams_first)
    sams.load_state_dict(block.state_dict())
    return block, sams


def random_tokens():
    """Draw 5 queries and 9 keys, and the positions of both."""
    random = torch.Generator().manual_seed(0)
    return [torch.randn(1, count, 32, generator=random) for count in (5, 9, 5, 9)]
