"""PerSAM-F in both forms: the released code's, without guidance, and the paper's, on top of all of PerSAM."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from persam_dreambooth.segmentation import Method, PerSAM, Reference, load_backbone
from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.mask_weights import fit_mask_weights
from random_models import random_sam
from tests.scene import scene

RELEASED, PAPER = Method.persam_f(), Method.persam_f("paper")
BOTH = pytest.mark.parametrize("method", [RELEASED, PAPER], ids=["released", "paper"])


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(random_sam(), device="cpu")


@pytest.fixture(scope="module")
def reference():
    return Reference(*scene(90, 150))


def test_paper_persam_f_learns_persams_target(backbone, reference):
    """The subject differs from PerSAM's only in the weights; the released code has another target feature."""
    guided = replace(Method(), mask_weights=True)
    plain = PerSAM(backbone).personalize(reference)
    paper = PerSAM(backbone, guided).personalize(reference)
    released = PerSAM(backbone, RELEASED).personalize(reference)
    torch.testing.assert_close(paper.target_feature, plain.target_feature, rtol=0, atol=0)
    assert not torch.allclose(released.target_feature, plain.target_feature, atol=1e-3)
    assert paper.mask_weights is not None
    assert (paper.made_by, plain.made_by) == ("PerSAM-F", "PerSAM")


@BOTH
def test_weights_are_fitted_on_first_pass_over_reference(backbone, reference, method):
    persam = PerSAM(backbone, method)
    subject = persam.personalize(reference)
    first = persam.segment(reference.pixels, subject).passes[0]
    decoded = Frame(90, 150, backbone.image_size).to_original(torch.from_numpy(first.logits)).flatten(1)
    fitted = fit_mask_weights(decoded, torch.from_numpy(reference.foreground.ravel()))
    torch.testing.assert_close(subject.mask_weights, fitted, atol=1e-4, rtol=0)


@BOTH
def test_weights_combine_masks_of_first_pass(backbone, reference, method):
    persam = PerSAM(backbone, method)
    subject = persam.personalize(reference)
    photo = scene(90, 150, seed=1)[0]
    found = [persam.segment(photo, replace(subject, mask_weights=torch.eye(3)[index])) for index in range(3)]
    for index, segmentation in enumerate(found):
        first = segmentation.passes[0]
        np.testing.assert_array_equal(first.logits, found[0].passes[0].logits)
        np.testing.assert_allclose(first.kept, first.logits[index], atol=1e-6)


def test_paper_masks_are_guided_and_released_ones_are_not(backbone, reference):
    photo = scene(90, 150, seed=1)[0]
    guided = replace(Method(), mask_weights=True)
    unguided = replace(guided, guided_attention=False, semantic_prompting=False)
    subject = PerSAM(backbone, guided).personalize(reference)
    first = {method: PerSAM(backbone, method).segment(photo, subject).passes[0] for method in (guided, unguided)}
    assert np.abs(first[guided].logits - first[unguided].logits).max() > 0.01
    assert not torch.allclose(
        subject.mask_weights, PerSAM(backbone, unguided).personalize(reference).mask_weights, atol=1e-4
    )


@BOTH
def test_only_released_code_gives_box_to_both_refinement_passes(backbone, reference, method):
    persam = PerSAM(backbone, method)
    subject = replace(persam.personalize(reference), mask_weights=torch.tensor([0.0, 0.0, 1.0]))
    passes = persam.segment(reference.pixels, subject).passes
    assert [decoded.box is not None for decoded in passes] == [False, method is RELEASED, True]
