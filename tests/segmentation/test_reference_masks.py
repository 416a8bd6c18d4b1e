"""References made from a box, points or a scribble, with tinyworld's trained SAM."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import SamModel

from albums import albums
from loading import load
from models import SAM
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import PerSAM, Reference, rate_references, reference_from
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.reference_masks import scribble_points


@pytest.fixture(scope="module")
def persam():
    return PerSAM.from_pretrained(load(SamModel, SAM).float(), device="cpu")


@pytest.fixture(scope="module")
def photos():
    return [picture for album in albums() for picture in album.pictures[:1]]


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def inner_points(mask, count=2):
    """Return pixels (x, y) well inside a mask."""
    inner = torch.from_numpy(mask).float()[None, None]
    while (smaller := 1 - torch.nn.functional.max_pool2d(1 - inner, 3, 1, 1)).sum() >= count:
        inner = smaller
    return inner[0, 0].nonzero().flip(-1)[:count].tolist()


def test_box_points_and_scribble_each_give_subject_mask(persam, photos):
    scores = {"box": [], "point": [], "points": [], "scribble": []}
    for picture in photos:
        true = picture.mask()
        box = bounding_box(torch.from_numpy(true))
        rows = np.nonzero(true)[0]
        scribble = np.zeros_like(true)
        middle = int(rows.mean())
        scribble[middle, true[middle]] = True
        prompts_by_name = {
            "box": {"box": box},
            "point": {"points": inner_points(true, 1)},
            "points": {"points": [*inner_points(true), (1, 1)], "point_labels": (1, 1, 0)},
            "scribble": {"scribble": scribble},
        }
        for name, prompts in prompts_by_name.items():
            scores[name].append(iou(reference_from(persam, picture.image, **prompts).foreground, true))
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    assert all(mean > 0.8 for mean in means.values()), means
    assert means["box"] > 0.9, means


def test_box_reference_finds_subject_like_mask_reference(persam):
    album = albums(1)[0]
    reference = album.pictures[0]
    box = bounding_box(torch.from_numpy(reference.mask()))
    subject = persam.personalize(reference_from(persam, reference.image, box=box))
    found = persam.segment([picture.image for picture in album.pictures[1:]], subject)
    assert all(
        iou(segmentation.mask, picture.mask()) > 0.8
        for segmentation, picture in zip(found, album.pictures[1:], strict=True)
    )


def test_pooled_reference_is_mean_over_all_cells(persam):
    first, second = (Reference(picture.image, picture.mask()) for picture in albums(1)[0].pictures[:2])
    alone, other_alone, both = (persam.personalize(given) for given in (first, second, [first, second]))
    again = persam.personalize([second, first])
    torch.testing.assert_close(both.target_embedding, again.target_embedding)
    low = torch.minimum(alone.target_embedding, other_alone.target_embedding)
    high = torch.maximum(alone.target_embedding, other_alone.target_embedding)
    assert (both.target_embedding >= low - 1e-5).all()
    assert (both.target_embedding <= high + 1e-5).all()
    assert not torch.allclose(both.target_embedding, alone.target_embedding)
    with pytest.raises(UserError, match="no reference"):
        persam.personalize([])


def test_references_are_scored_on_each_others_photos(persam):
    pictures = albums(1)[0].pictures[:3]
    references = [Reference(picture.image, picture.mask()) for picture in pictures]
    scores = rate_references(persam, references)
    for number, reference in enumerate(references):
        subject = persam.personalize(reference)
        others = [other for other in references if other is not reference]
        found = persam.segment([other.image for other in others], subject)
        by_hand = np.mean(
            [iou(segmentation.mask, other.foreground) for segmentation, other in zip(found, others, strict=True)]
        )
        assert scores[number] == pytest.approx(by_hand, abs=1e-3)
    with pytest.raises(UserError, match="at least two"):
        rate_references(persam, references[:1])


@pytest.mark.parametrize(
    ("prompts", "complaint"),
    [
        ({}, "none was given"),
        ({"box": (10, 10, 5, 20)}, "not a box inside a photo of 128 x 128"),
        ({"box": (10, 10, 20)}, "not a box"),
        ({"box": (0, 0, 200, 20)}, "not a box"),
        ({"points": [(5, 300)]}, "outside its photo"),
        ({"points": [(5, 5)], "point_labels": (1, 0)}, "1 reference points were given with 2 labels"),
        ({"scribble": np.zeros((128, 128))}, "0 of them marked"),
        ({"scribble": np.eye(64)}, "128 x 128 pixels"),
        ({"scribble": np.eye(128), "points": [(1, 1)]}, "not both"),
    ],
    ids=str,
)
def test_unusable_prompts_are_refused_in_one_line(persam, photos, prompts, complaint):
    with pytest.raises(UserError, match=complaint) as refusal:
        reference_from(persam, photos[0].image, **prompts)
    assert "\n" not in str(refusal.value)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 15), st.integers(0, 11)), min_size=1, max_size=40), st.integers(1, 8))
def test_scribble_points_are_on_it_and_spread_out(pixels, count):
    scribble = np.zeros((12, 16), bool)
    for x, y in pixels:
        scribble[y, x] = True
    points = scribble_points(scribble, count)
    assert len(points) == min(count, len(pixels))
    assert {tuple(point) for point in points.tolist()} <= pixels
    assert len({tuple(point) for point in points.tolist()}) == len(points)
