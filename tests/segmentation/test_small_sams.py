"""PerSAM on MobileSAM, EdgeSAM and EfficientSAM; incomplete files of theirs are refused."""

import numpy as np
import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import PerSAM, Prompts, Reference, load_backbone
from persam_dreambooth.segmentation.backbones.checkpoints import read_checkpoint
from persam_dreambooth.segmentation.backbones.edge_sam import build_edge_sam
from persam_dreambooth.segmentation.backbones.efficient_sam import MOST, EfficientSam, build_efficient_sam
from persam_dreambooth.segmentation.backbones.mobile_sam import build_mobile_sam
from random_models import draw_weights
from tests.parity.small_sams import published_shapes, random_state
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


@pytest.mark.parametrize("name", ["mobile_sam", "edge_sam", "efficient_sam_vitt"])
@pytest.mark.parametrize("missing", ["neck", "iou_token", "point_embeddings"])
def test_file_without_some_weights_is_refused(tmp_path, name, missing):
    state, file = random_state(published_shapes(name)), tmp_path / "sam.pt"
    torch.save({weight: value for weight, value in state.items() if missing not in weight}, file)
    with pytest.raises(UserError, match="lacks other SAM weights"):
        read_checkpoint(file)


def test_photos_are_placed_as_in_authors_predictors():
    placed = {name: random_backbone(name).frame(60, 120).resized for name in BUILD}
    assert placed == {"MobileSAM": (64, 128), "EdgeSAM": (64, 128), "EfficientSAM": (128, 128)}


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
