"""References made from a phrase and masks filtered by one, with random models that locate phrases."""

import re

import numpy as np
import pytest
import torch

from models import DINO, SAM
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import (
    INSID3,
    FeatureEncoder,
    PerSAM,
    PhraseCheck,
    Presence,
    Reference,
    SegGPT,
    TextLocator,
    TextPrompt,
    reference_from,
    reference_from_text,
)
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.multi_mask import candidates
from tests.scene import scene
from tests.segmentation.random_locators import LOCATORS
from tests.segmentation.test_seggpt import random_seggpt


@pytest.fixture(scope="module")
def persam():
    return PerSAM.from_pretrained(str(SAM), device="cpu")


def locator(name):
    kind = {"sam3": "sam3", "owlv2": "owlv2", "clipseg": "clipseg"}[name]
    return TextLocator(*LOCATORS[name](), kind, "cpu")


def below_best(found, pixels):
    """A phrase whose threshold only the best place passes: less than the whole photo for CLIPSeg."""
    return TextPrompt("a disc", threshold=0.995 * found.locate(pixels, TextPrompt("a disc", threshold=0.0))[0].score)


def test_a_box_is_outlined_by_the_sam(models):
    """By a random SAM, which draws something in a random box; tinyworld's draws nothing there."""
    pixels, found = scene(48, 64)[0], locator("owlv2")
    persam, prompt = PerSAM.from_pretrained(str(models / "sam"), device="cpu"), below_best(found, pixels)
    made = reference_from_text(persam, found, pixels, prompt)
    box = found.locate(pixels, prompt)[0].box
    np.testing.assert_array_equal(made.foreground, reference_from(persam, pixels, box=box).foreground)
    np.testing.assert_array_equal(made.pixels, pixels)


def test_sam3s_mask_is_taken_as_it_is(persam):
    pixels, found = scene(48, 64)[0], locator("sam3")
    prompt = below_best(found, pixels)
    made = reference_from_text(persam, found, pixels, prompt)
    np.testing.assert_array_equal(made.foreground, found.locate(pixels, prompt)[0].mask)


def test_clipsegs_coarse_mask_is_outlined_if_there_is_a_sam(persam):
    pixels, found = scene(48, 64)[0], locator("clipseg")
    prompt = below_best(found, pixels)
    best = found.locate(pixels, prompt)[0]
    with_sam = reference_from_text(persam, found, pixels, prompt)
    np.testing.assert_array_equal(with_sam.foreground, reference_from(persam, pixels, box=best.box).foreground)
    insid3 = INSID3(FeatureEncoder.from_pretrained(DINO, 64, "cpu"))
    np.testing.assert_array_equal(reference_from_text(insid3, found, pixels, prompt).foreground, best.mask)
    with pytest.raises(UserError, match="INSID3 has no SAM"):
        boxes = locator("owlv2")
        reference_from_text(insid3, boxes, pixels, below_best(boxes, pixels))
    seggpt = SegGPT(random_seggpt(), device="cpu")  # it takes a box that a person draws, but not one that is guessed
    np.testing.assert_array_equal(reference_from_text(seggpt, found, pixels, prompt).foreground, best.mask)
    with pytest.raises(UserError, match="SegGPT has no SAM"):
        reference_from_text(seggpt, boxes, pixels, below_best(boxes, pixels))


def test_a_phrase_that_fits_nowhere_is_refused(persam):
    with pytest.raises(UserError, match=r"no 'a disc' was found in the reference photo with a score above 1;"):
        reference_from_text(persam, locator("owlv2"), scene(48, 64)[0], TextPrompt("a disc", threshold=1.0))


def test_a_match_that_covers_the_whole_photo_is_refused():
    insid3 = INSID3(FeatureEncoder.from_pretrained(DINO, 64, "cpu"))
    with pytest.raises(UserError, match=r"'a disc' was found in every pixel of the reference photo.*higher threshold"):
        reference_from_text(insid3, locator("clipseg"), scene(48, 64)[0], TextPrompt("a disc", threshold=0.0))


def box_overlap(mask, box):
    """IoU of a box and the box around a mask, on a grid of tenths of a pixel."""
    left, top, right, bottom = bounding_box(torch.from_numpy(mask)).numpy() * 10 + (0, 0, 10, 10)
    painted = np.zeros([10 * side for side in mask.shape], bool)
    other = painted.copy()
    painted[top:bottom, left:right] = True
    x0, y0, x1, y1 = np.rint(box * 10).astype(int)
    other[y0:y1, x0:x1] = True
    return (painted & other).sum() / (painted | other).sum()


def test_masks_are_rejected_by_their_overlap_with_the_phrases_boxes(persam):
    """The best overlap of each candidate decides; the first that is enough is kept, or the first one."""
    found, (pixels, disc) = locator("owlv2"), scene(64, 96)
    subject = persam.personalize(Reference(pixels, disc))
    verdicts = []
    for seed in range(1, 5):
        image = scene(64, 96, seed)[0]
        (photo,) = persam.encode([image])
        tried = list(candidates(persam, photo, subject, 3))
        boxes = [match.box for match in found.locate(image, TextPrompt("a disc"))]
        overlaps = [max(box_overlap(segmentation.mask, box) for box in boxes) for segmentation in tried]
        for wanted in (0.05, 0.3, 0.95):
            check = PhraseCheck(persam, subject, found, TextPrompt("a disc", overlap=wanted))
            kept, presence = check.find(image, photo)
            enough = [n for n, overlap in enumerate(overlaps) if overlap >= wanted]
            np.testing.assert_array_equal(kept.mask, tried[enough[0] if enough else 0].mask)
            verdicts.append(presence is None)
            assert (presence is None) == bool(enough)
            if not enough:
                assert (presence.verdict, presence.probability) == ("not found", 0)
                said = re.fullmatch(
                    r".* not on what 'a disc' describes \(its box overlaps with (.*)\)", presence.reason
                )
                assert float(said[1]) == pytest.approx(overlaps[0], abs=0.02)
    assert set(verdicts) == {True, False}


def test_without_a_match_every_mask_is_rejected(persam):
    pixels, disc = scene(64, 96)
    subject = persam.personalize(Reference(pixels, disc))
    check = PhraseCheck(persam, subject, locator("owlv2"), TextPrompt("a disc", threshold=1.0, overlap=0.0))
    assert check.find(pixels, persam.encode([pixels])[0])[1].reason.endswith("(nothing in the photo)")


def test_a_presence_rule_decides_on_masks_that_fit(persam):
    pixels, disc = scene(64, 96)
    subject = persam.personalize(Reference(pixels, disc))
    (photo,) = persam.encode([pixels])
    found = persam.segment(photo, subject)
    asked = []

    def rule(image, photo, found):
        asked.append(found)
        return Presence("unsure", 0.4, "a reason")

    fits = PhraseCheck(persam, subject, locator("owlv2"), TextPrompt("a disc", overlap=0.0), rule)
    assert fits(pixels, photo, found) == Presence("unsure", 0.4, "a reason")
    assert len(asked) == 1
    misfits = PhraseCheck(persam, subject, locator("owlv2"), TextPrompt("a disc", overlap=1.0), rule)
    assert misfits(pixels, photo, found).verdict == "not found"
    assert len(asked) == 1


def test_the_phrase_is_located_once_in_a_photo_and_again_in_the_next(persam):
    pixels, disc = scene(64, 96)
    subject = persam.personalize(Reference(pixels, disc))
    found = locator("owlv2")
    check = PhraseCheck(persam, subject, found, TextPrompt("a disc", overlap=0.0))
    runs = []
    found._model.register_forward_hook(lambda *_: runs.append(1))
    for image, expected in ((pixels, 1), (pixels, 1), (scene(64, 96, 1)[0], 2)):
        (photo,) = persam.encode([image])
        check(image, photo, persam.segment(photo, subject))
        assert len(runs) == expected
