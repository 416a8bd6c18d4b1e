"""Several masks in a photo: no overlap, no uncontested pixel lost, instances separated."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models import CLIP, SAM
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import (
    ImageEncoder,
    PerSAM,
    PresenceCheck,
    PresenceRule,
    Reference,
    segment_instances,
    segment_together,
)
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.multi_mask import share_out, without_overlap
from presence import RULE, photo
from random_models import random_sam
from recipes import KIND_NAMES, SCENES, Recipe, random_identity, random_placement
from tests.scene import scene
from world import draw


@settings(deadline=None)
@given(arrays.arrays(np.float32, (3, 4, 5), elements=st.floats(-4, 4, width=32)))
def test_each_pixel_goes_to_highest_logit_above_zero(logits):
    labels = share_out([torch.from_numpy(mask_logits) for mask_logits in logits], (4, 5))
    expected = np.where(logits.max(0) > 0, logits.argmax(0) + 1, 0)
    np.testing.assert_array_equal(labels, expected)


def test_absent_mask_keeps_its_number():
    logits = torch.ones(2, 2)
    np.testing.assert_array_equal(share_out([None, logits], (2, 2)), np.full((2, 2), 2))


@pytest.fixture(scope="module")
def together():
    """Two subjects of a random SAM, whose masks overlap, alone and together in one photo."""
    persam = PerSAM.from_pretrained(random_sam(), device="cpu")
    image, disc = scene(90, 150)
    corner = np.zeros_like(disc)
    corner[:40, :40] = True
    subjects = [persam.personalize(Reference(image, mask)) for mask in (disc, corner)]
    (encoded,) = persam.encode([scene(90, 150, seed=1)[0]])
    alone = [persam.segment(encoded, subject) for subject in subjects]
    return persam, encoded, subjects, alone, segment_together(persam, encoded, subjects)


def test_masks_are_disjoint_and_no_claimed_pixel_is_lost(together):
    _, _, _, alone, both = together
    assert (alone[0].mask & alone[1].mask).any()
    assert not (both[0].mask & both[1].mask).any()
    np.testing.assert_array_equal(both[0].mask | both[1].mask, alone[0].mask | alone[1].mask)
    for winner, loser in ((0, 1), (1, 0)):
        assert both[winner].mask[alone[winner].mask & ~alone[loser].mask].all()


def test_contested_pixel_goes_to_higher_logit_and_box_is_updated(together):
    _, encoded, _, alone, both = together
    logits = [encoded.frame.to_original(torch.from_numpy(found.logits)[None])[0].numpy() for found in alone]
    contested = alone[0].mask & alone[1].mask
    np.testing.assert_array_equal(both[0].mask[contested], (logits[0] >= logits[1])[contested])
    for found in both:
        if found.box is not None:
            np.testing.assert_array_equal(found.box, bounding_box(torch.from_numpy(found.mask)))


def test_user_given_mask_keeps_all_its_pixels(together):
    _, encoded, _, alone, _ = together
    given_mask = np.zeros_like(alone[0].mask)
    given_mask[20:70, 30:120] = True
    (cut,) = without_overlap(alone[:1], encoded.frame, [given_mask])
    np.testing.assert_array_equal(cut.mask, alone[0].mask & ~given_mask)


def test_single_subject_keeps_its_mask(together):
    persam, encoded, subjects, alone, _ = together
    (only,) = segment_together(persam, encoded, subjects[:1])
    np.testing.assert_array_equal(only.mask, alone[0].mask)


def test_subject_of_another_sam_is_refused(together):
    _, encoded, subjects, _, _ = together
    other = PerSAM.from_pretrained(random_sam(seed=1), device="cpu")
    with pytest.raises(UserError, match="made with"):
        segment_instances(other, encoded, subjects[0], lambda *_: True)


# In tinyworld


def instances_in(persam, check, subject, picture):
    """Segment the instances whose verdict is "found"."""
    is_found = lambda encoded, found: check(picture.image, encoded, found).verdict == "found"  # noqa: E731
    return segment_instances(persam, picture.image, subject, is_found)


def test_twins_get_one_mask_each_and_empty_scene_none():
    persam, encoder = PerSAM.from_pretrained(SAM, device="cpu"), ImageEncoder.from_pretrained(CLIP, "cpu")
    rule, counts, overlaps = PresenceRule.load(RULE), [], []
    for number in range(16):
        rng = np.random.default_rng([77, number])
        identity = random_identity(rng, KIND_NAMES[number % len(KIND_NAMES)], held_out=True)
        reference = photo(rng, identity, ("subject",))
        pair = Reference(reference.image, reference.mask())
        subject = persam.personalize(pair)
        check = PresenceCheck(persam, subject, [pair], rule, encoder)
        pair_of_twins = tuple((identity, random_placement(rng, x, 0.66)) for x in (0.27, 0.73))
        twins = draw(Recipe(str(rng.choice(SCENES)), pair_of_twins, 1.0, 1.0, seed=number), 128)
        found = instances_in(persam, check, subject, twins)
        counts.append(len(found))
        assert not np.sum([segmentation.mask for segmentation in found], axis=0, dtype=int).max(initial=0) > 1
        for true in (twins.mask(0), twins.mask(1)):
            overlaps.append(
                max(
                    ((segmentation.mask & true).sum() / (segmentation.mask | true).sum() for segmentation in found),
                    default=0,
                )
            )
        assert instances_in(persam, check, subject, photo(rng, identity, ())) == []
    assert max(counts) == 2
    assert np.mean(np.array(overlaps) > 0.5) >= 0.75
