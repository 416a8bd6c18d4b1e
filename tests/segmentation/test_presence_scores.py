"""The five presence scores of a mask."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models import CLIP
from persam_dreambooth.segmentation import ImageEncoder, Method, PerSAM, PresenceMeter, Reference
from random_models import random_sam
from tests.scene import scene


@pytest.fixture(scope="module")
def seen(persam):
    """A reference, its score meter, another photo with its encoding, and the segmentation of that photo."""
    reference = Reference(*scene(90, 150))
    subject = persam.personalize(reference)
    image, _ = scene(90, 150, seed=1)
    (encoded,) = persam.encode([image])
    return reference, PresenceMeter(persam, subject, [reference]), image, encoded, persam.segment(encoded, subject)


def test_likeness_and_contrast_come_from_confidence_map(persam, seen):
    reference, measure, image, encoded, found = seen
    own = persam.segment(reference.image, persam.personalize(reference)).confidence_map[reference.foreground].max()
    mask = np.zeros_like(found.mask)
    mask[30:60, 40:90] = True
    scores = measure(image, encoded, replace(found, mask=mask))
    inside, outside = found.confidence_map[mask], found.confidence_map[~mask]
    assert scores.likeness == pytest.approx(inside.max() / own, rel=1e-5)
    assert scores.contrast == pytest.approx(inside.mean() - outside.mean(), abs=1e-5)
    assert scores.score == found.score
    assert scores.appearance is None


def test_cycle_goes_from_found_mask_to_reference(persam, seen):
    reference, measure, image, encoded, found = seen
    mask = np.zeros_like(found.mask)
    mask[30:60, 40:90] = True
    back = persam.segment(reference.image, persam.personalize(Reference(image, mask))).mask
    true = reference.foreground
    expected = (back & true).sum() / (back | true).sum()
    assert measure(image, encoded, replace(found, mask=mask)).cycle == pytest.approx(expected)


def test_reference_has_likeness_and_appearance_1_with_itself(persam, seen):
    reference, _, _, _, _ = seen
    encoder = ImageEncoder.from_pretrained(CLIP, "cpu")
    subject = persam.personalize(reference)
    (encoded,) = persam.encode([reference.image])
    found = replace(persam.segment(encoded, subject), mask=reference.foreground)
    scores = PresenceMeter(persam, subject, [reference], encoder)(reference.image, encoded, found)
    assert scores.likeness == pytest.approx(1)
    assert scores.appearance == pytest.approx(1, abs=1e-5)


def test_scores_of_empty_and_full_masks(seen):
    _, measure, image, encoded, found = seen
    assert measure(image, encoded, replace(found, mask=np.zeros_like(found.mask))) is None
    full = measure(image, encoded, replace(found, mask=np.ones_like(found.mask)))
    assert (full.contrast, full.cycle) == (0, 0)


def test_cycle_does_not_refit_mask_weights():
    persam = PerSAM.from_pretrained(random_sam(), Method.persam_f(), device="cpu")
    reference = Reference(*scene(90, 150))
    subject = persam.personalize(reference, torch.tensor([0.0, 0.0, 1.0]))
    image, _ = scene(90, 150, seed=1)
    (encoded,) = persam.encode([image])
    mask = np.zeros((90, 150), bool)
    mask[30:60, 40:90] = True
    found = replace(persam.segment(encoded, subject), mask=mask)
    back = persam.personalize(Reference(image, mask), subject.mask_weights)
    again, true = persam.segment(reference.image, back).mask, reference.foreground
    scores = PresenceMeter(persam, subject, [reference])(image, encoded, found)
    assert scores.cycle == pytest.approx((again & true).sum() / (again | true).sum())
