"""The base of all one-shot methods: batches, one photo or several, and subjects of another model or method."""

import numpy as np
import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Method, OneShotSegmenter, PerSAM, Reference, Subject, load_backbone
from persam_dreambooth.segmentation.types import EncodedPhoto
from random_models import random_sam
from tests.scene import scene
from tests.segmentation.test_persam import assert_same


def test_photo_gives_segmentation_and_list_gives_list(persam, subject):
    photo, _ = scene(90, 150, seed=1)
    listed = persam.segment([photo], subject)
    assert isinstance(listed, list)
    assert len(listed) == 1
    assert_same(persam.segment(photo, subject), listed[0])
    assert persam.segment([], subject) == []


def test_subject_of_other_backbone_is_refused_by_both_names(subject):
    other = load_backbone(random_sam(seed=1), device="cpu")
    other.name = "another-sam"
    with pytest.raises(UserError, match=r"SamModel.*another-sam"):
        PerSAM(other).segment(scene(32, 32)[0], subject)


def test_non_positive_batch_size_is_refused(persam, subject):
    with pytest.raises(UserError, match="batch_size 0"):
        persam.segment([scene(40, 40)[0]], subject, batch_size=0)


def test_subject_of_other_method_is_refused_by_name(backbone):
    reference, photo, weights = Reference(*scene(90, 150)), scene(64, 64)[0], torch.ones(3) / 3
    plain, finetuned = PerSAM(backbone), PerSAM(backbone, Method.persam_f())
    with pytest.raises(UserError, match="made by PerSAM, not by PerSAM-F"):
        finetuned.segment(photo, plain.personalize(reference))
    with pytest.raises(UserError, match="made by PerSAM-F, not by PerSAM;"):
        plain.segment(photo, finetuned.personalize(reference, weights))


class Counting(OneShotSegmenter):
    """A method whose photos are their brightness, and which notes what it encoded at once."""

    label, name, checksum = "PerSAM", "counting", "1"

    def __init__(self):
        self.batches = []

    def learn(self, references, mask_weights):
        feature = torch.stack([photo.embedding for _, photo in references]).mean(0).flatten()
        return Subject(feature, feature, self.name, self.checksum, mask_weights)

    def encode(self, images):
        self.batches.append(len(images))
        return [image if isinstance(image, EncodedPhoto) else encoded(image.mean()) for image in images]

    def segment_encoded(self, photo, subject, exclude=None):
        return float(photo.embedding) - float(subject.target_feature)


def encoded(level):
    return EncodedPhoto(torch.full((1, 1, 1), float(level)), None)


def grey(level, size=4):
    return np.full((size, size, 3), level, np.uint8)


@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1] * 5), (2, [2, 2, 1]), (4, [4, 1]), (9, [5])])
def test_photos_are_encoded_in_batches_and_found_in_their_order(batch_size, batches):
    method = Counting()
    subject = method.personalize(Reference(grey(100), np.eye(4)))
    method.batches.clear()
    photos = [grey(101), encoded(102), grey(103), grey(104), grey(105)]
    assert method.segment(photos, subject, batch_size) == [1, 2, 3, 4, 5]
    assert method.batches == batches


def test_references_are_encoded_one_at_a_time_unless_given_encoded():
    method, references = Counting(), [Reference(grey(level), np.eye(4)) for level in (10, 30)]
    assert method.personalize(references).target_feature.tolist() == [20]
    assert method.batches == [1, 1]
    given = [encoded(1), encoded(3)]
    assert method.personalize(references, encoded=given).target_feature.tolist() == [2]
    assert method.batches == [1, 1]
    with pytest.raises(ValueError, match="zip"):
        method.personalize(references, encoded=given[:1])


def test_missing_references_are_refused():
    with pytest.raises(UserError, match="personalize got no reference"):
        Counting().personalize([])


def test_presence_rules_belong_to_the_weights(persam):
    assert persam.calibration == persam.checksum


def test_confidence_is_that_of_the_segmentation(persam, subject):
    (photo,) = persam.encode([scene(90, 150, seed=1)[0]])
    np.testing.assert_array_equal(persam.confidence(photo, subject), persam.segment(photo, subject).confidence_map)
