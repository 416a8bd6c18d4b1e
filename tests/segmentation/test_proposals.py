"""Mask proposals: what a SAM's grid of points finds, the filters, and the ranking."""

import numpy as np
import pytest
import torch

from finders import photos, tiny_dino, tiny_sam
from persam_dreambooth.cli import main
from persam_dreambooth.images import mask_iou
from persam_dreambooth.segmentation import load_backbone
from persam_dreambooth.segmentation.encoding import PhotoEncoder
from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.proposals import (
    PointGrid,
    Proposal,
    prototype,
    shrunk,
    similarities,
    without_duplicates,
)
from random_models import random_sam
from recipes import random_identity
from tests.scene import scene
from tests.segmentation.random_sams import FAMILIES


@pytest.fixture(scope="module")
def sam():
    return load_backbone(tiny_sam(), "cpu")


@pytest.fixture(scope="module")
def pictures():
    """A subject alone, and beside a look-alike."""
    rng = np.random.default_rng(11)
    cat = random_identity(rng, "cat", held_out=True)
    return photos(cat, rng, 1, "alone")[0], photos(cat, rng, 1, "beside a look-alike")[0]


def test_subject_beside_a_look_alike_is_proposed_and_ranked_first_by_features_that_tell_them_apart(sam, pictures):
    reference, beside = (np.asarray(picture.image) for picture in pictures)
    proposals = PointGrid(sam, 8)(beside, PhotoEncoder(sam)([beside])[0])
    true = pictures[1].mask()
    assert max(mask_iou(proposal.mask(), true) for proposal in proposals) > 0.8
    encoder = PhotoEncoder(tiny_dino())
    known, photo = encoder([reference, beside])
    liked = similarities(proposals, photo, prototype(known, torch.from_numpy(pictures[0].mask())))
    assert mask_iou(proposals[int(np.argmax(liked))].mask(), true) > 0.8


def test_thresholds_and_number_of_points_decide_what_is_kept(sam, pictures):
    pixels = np.asarray(pictures[1].image)
    photo = PhotoEncoder(sam)([pixels])[0]
    every = PointGrid(sam, 4, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0)(pixels, photo)
    assert [proposal.score for proposal in every] == sorted((proposal.score for proposal in every), reverse=True)
    good = PointGrid(sam, 4, pred_iou_thresh=0.7, stability_score_thresh=0.0, box_nms_thresh=1.0)(pixels, photo)
    assert 0 < len(good) < len(every) and all(proposal.score > 0.7 for proposal in good)
    stable = PointGrid(sam, 4, pred_iou_thresh=0.0, stability_score_thresh=0.6, box_nms_thresh=1.0)(pixels, photo)
    assert 0 < len(stable) < len(every)
    assert all(proposal.mask()[proposal.point[::-1]] for proposal in every)
    assert {proposal.point for proposal in every} <= {(x, y) for x in (16, 48, 80, 112) for y in (16, 48, 80, 112)}


@pytest.mark.parametrize("family", ["sam", *FAMILIES])
def test_every_family_proposes_masks_of_the_photo(family):
    backbone = load_backbone(FAMILIES[family]() if family in FAMILIES else random_sam(128), "cpu")
    pixels = scene(60, 90)[0]
    photo = PhotoEncoder(backbone)([pixels])[0]
    every = PointGrid(backbone, 4, -9.0, 0.0, 1.0)(pixels, photo)
    assert every and all(proposal.mask().shape == (60, 90) for proposal in every)
    assert all(0 <= proposal.point[0] < 90 and 0 <= proposal.point[1] < 60 for proposal in every)


def test_of_two_alike_masks_the_better_stays_and_empty_ones_go():
    frame = Frame(40, 60, 64, stretch=True)
    logits = torch.full((3, 40, 60), -1.0)
    logits[0, 5:20, 5:20] = logits[1, 5:20, 5:21] = 1.0
    proposals = [Proposal(level, frame, score) for level, score in zip(logits, (0.8, 0.9, 0.95), strict=True)]
    assert without_duplicates(proposals, 0.7) == [proposals[1]]
    assert without_duplicates(proposals, 0.99) == [proposals[1], proposals[0]]
    assert without_duplicates(proposals[2:], 0.7) == []


def test_prototype_is_the_mean_feature_under_the_mask(sam, pictures):
    pixels = np.asarray(pictures[0].image)
    photo = PhotoEncoder(sam)([pixels])[0]
    whole = prototype(photo, torch.ones(pixels.shape[:2], dtype=torch.bool))
    mean = torch.nn.functional.normalize(photo.embedding, dim=0).mean((1, 2))
    torch.testing.assert_close(whole, mean / mean.norm())
    left = torch.zeros(pixels.shape[:2], dtype=torch.bool)
    left[:, : pixels.shape[1] // 2] = True
    assert float(prototype(photo, left) @ whole) < 0.999
    speck = torch.zeros(pixels.shape[:2], dtype=torch.bool)
    speck[3, 3] = True  # less than a cell
    assert float(prototype(photo, speck).norm()) == pytest.approx(1)


def test_large_photos_are_compared_small():
    assert (shrunk(Frame(3000, 1500, 1024)).height, shrunk(Frame(3000, 1500, 1024)).width) == (256, 128)
    assert shrunk(Frame(10000, 1, 1024)).width == 1
    assert shrunk(Frame(40, 60, 1024)) == Frame(40, 60, 1024)


def test_review_refuses_fast_sam_beside_a_grid_or_without_its_file(tmp_path, capsys):
    argv = ["review", "--images", str(tmp_path), "--fast_sam", str(tmp_path / "none.pt")]
    assert main([*argv, "--points_per_side", "8"]) == 2
    assert "leave one of the two out" in capsys.readouterr().err
    assert main(argv) == 2
    assert "FastSAM" in capsys.readouterr().err
