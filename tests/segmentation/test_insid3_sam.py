"""INSID3 with SAM: what prompts the SAM, which mask is kept, and what is encoded by which of the two."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from finders import photos
from models import DINO, SAM
from persam_dreambooth.segmentation import (
    INSID3,
    FeatureEncoder,
    Insid3Method,
    Insid3Sam,
    Reference,
    load_backbone,
    load_segmenter,
)
from persam_dreambooth.segmentation.insid3_sam import POINTS
from random_models import random_sam
from recipes import random_identity
from tests.scene import scene
from tests.segmentation.test_features import dinov3

CELLS, SIZE = 8, (96, 120)


def built(**settings):
    """Build INSID3 with SAM of small random models."""
    method = Insid3Method(with_sam=True, **settings)
    return Insid3Sam(INSID3(FeatureEncoder(dinov3(), CELLS, device="cpu"), method), load_backbone(random_sam(), "cpu"))


@pytest.fixture
def both():
    return built()


@pytest.fixture
def subject(both):
    return both.personalize(Reference(*scene(*SIZE)))


def prompts_of(both, photo, subject, exclude=None):
    """Segment an encoded photo; return the prompts of all decoder passes, and the segmentation."""
    given, decode = [], both.backbone.decode

    def recording(embedding, prompts, *args, **kwargs):
        given.append(prompts)
        return decode(embedding, prompts, *args, **kwargs)

    both.backbone.decode = recording
    return given, both.segment_encoded(photo, subject, exclude)


def test_photos_are_encoded_by_both_and_references_by_insid3_alone(both):
    first, second = scene(*SIZE, 1)[0], scene(60, 40, 2)[0]
    (known,) = both.encode([second])
    encoded = both.encode([known, first])
    assert encoded[0] is known
    assert torch.equal(encoded[1].embedding, both.backbone.encode(both.backbone.frame(*SIZE).pixels(first)[None])[0])
    assert torch.equal(encoded[1].other.embedding, both.insid3.encode([first])[0].embedding)
    (learned,) = both.encode_to_learn([Reference(*scene(*SIZE))])
    assert learned.other is None and learned.embedding.shape[0] == encoded[1].other.embedding.shape[0]


def test_subject_is_insid3s_and_presence_rules_belong_to_both_models(both, subject):
    assert subject.made_by == "INSID3"
    alone = both.insid3.personalize(Reference(*scene(*SIZE)))
    assert torch.equal(subject.target_feature, alone.target_feature)
    assert both.calibration == f"{both.insid3.calibration}-{both.backbone.checksum}"


def test_best_region_of_insid3s_mask_prompts_the_sam(both, subject):
    (photo,) = both.encode([scene(*SIZE, 3)[0]])
    exclude = np.zeros(SIZE, bool)
    exclude[:, 76:92] = True  # splits the disc into two unequal regions
    coarse = both.insid3.segment_encoded(photo.other, subject, exclude)
    regions, count = ndimage.label(coarse.mask, np.ones((3, 3)))
    sums = [coarse.confidence_map[regions == number].clip(0).sum() for number in range(1, count + 1)]
    assert count > 1  # otherwise this shows nothing
    best = regions == 1 + int(np.argmax(sums))
    (first, *_), _ = prompts_of(both, photo, subject, exclude)
    rows, columns = np.flatnonzero(best.any(1)), np.flatnonzero(best.any(0))
    box = torch.tensor([columns[0], rows[0], columns[-1], rows[-1]])
    torch.testing.assert_close(first.box, photo.frame.box_to_model(box))
    drawn = photo.frame.to_original(first.mask[None])[0].numpy()
    assert ((drawn > 0) != best).mean() < 0.02 and abs(drawn).max() <= 8
    scale = torch.tensor([SIZE[1], SIZE[0]]) / torch.tensor(photo.frame.resized[::-1])
    points = (first.points * scale).round().long()
    assert 2 <= len(points) <= 2 * POINTS
    for label, region in ((1, best), (0, ~best)):
        x, y = points[first.labels == label].T
        assert region[y, x].all()
        confidence = coarse.confidence_map[y, x]
        assert confidence[0] == coarse.confidence_map[region].max()
        assert (np.diff(confidence) <= 0).all()
        distances = torch.cdist(*[torch.stack([x, y], 1).float()] * 2)
        assert distances[~torch.eye(len(x), dtype=torch.bool)].min() >= max(SIZE) / 10


def test_mask_and_score_are_those_of_the_last_of_three_passes(both, subject):
    (photo,) = both.encode([scene(*SIZE, 3)[0]])
    given, found = prompts_of(both, photo, subject)
    assert len(given) == len(found.passes) == 3
    last = found.passes[-1]
    np.testing.assert_array_equal(photo.frame.to_original(torch.from_numpy(last.kept)[None])[0] > 0, found.mask)
    assert found.score == pytest.approx(last.predicted_iou.max())
    ys, xs = np.nonzero(found.mask)
    assert found.box.tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]
    for before, prompts in zip(found.passes, given[1:], strict=False):
        np.testing.assert_array_equal(prompts.mask, before.kept)
        assert prompts.box is not None and torch.equal(prompts.points, given[0].points)


def test_nothing_found_by_insid3_is_not_given_to_the_sam(both, subject):
    (photo,) = both.encode([scene(*SIZE, 3)[0]])
    nowhere = both.segment_encoded(photo, subject, np.ones(SIZE, bool))
    assert not nowhere.mask.any() and nowhere.box is None and len(nowhere.passes) == 1
    assert nowhere.logits.shape == (32, 32) and (nowhere.logits < 0).all()  # in SAM's frame


# In tinyworld


@pytest.fixture(scope="module")
def pair():
    """A held-out dog's reference, and a picture of it beside a look-alike."""
    rng = np.random.default_rng(3)
    dog = random_identity(rng, "dog", held_out=True)
    return photos(dog, rng, 1, "alone")[0], photos(dog, rng, 1, "beside a look-alike")[0]


def test_sam_mask_is_dropped_where_it_disagrees(pair):
    reference_picture, picture = pair
    settings = {"sam": str(SAM), "features": str(DINO), "features_size": 64, "device": "cpu"}
    both = load_segmenter(Insid3Method(with_sam=True, agreement=1.0), **settings)
    alone = load_segmenter(Insid3Method(), **settings)
    subject = both.personalize(Reference(reference_picture.image, reference_picture.mask()))
    own, dropped = alone.segment(picture.image, subject), both.segment(picture.image, subject)
    np.testing.assert_array_equal(dropped.mask, own.mask)
    assert "SAM's mask was dropped" in dropped.warnings[-1]
    assert dropped.logits.shape == (64, 64)  # in SAM's frame, so that subjects can be compared pixel by pixel
