"""Tracking subjects through a video, with tinyworld's trained SAM on drawn frames."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import SamModel

from albums import albums
from loading import load
from models import SAM
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Method, PerSAM, Reference, VideoSegmenter
from persam_dreambooth.segmentation.frame import bounding_box
from random_models import random_sam
from tests.scene import scene
from world import draw

PATH = [0.3, 0.36, 0.42, 0.48, 0.54, None, None, 0.6, 0.54, 0.48]
"""Horizontal position of the dog in each frame; None where it is out of view."""


def draw_video(album, path=PATH, side=128):
    """The album's subject in one pose, moving along a path in front of a still background."""
    recipe = album.pictures[0].recipe
    ((identity, placement),) = recipe.subjects
    for x in path:
        subjects = () if x is None else ((identity, replace(placement, x=x)),)
        yield draw(replace(recipe, subjects=subjects), side)


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.fixture(scope="module")
def persam():
    return PerSAM.from_pretrained(load(SamModel, SAM).float(), Method.persam_f(), device="cpu")


@pytest.fixture(scope="module")
def followed(persam):
    """The dog's video and its tracked frames, from the mask in the first frame."""
    pictures = list(draw_video(albums(1)[0]))
    subject = persam.personalize(Reference(pictures[0].image, pictures[0].mask()))
    segmenter = VideoSegmenter(persam, [subject])
    first = pictures[0].mask().astype(np.uint8)
    return pictures, list(segmenter.follow((picture.image for picture in pictures), first))


def test_subject_is_tracked_and_first_frame_is_kept(followed):
    pictures, seen = followed
    np.testing.assert_array_equal(seen[0].labels, pictures[0].mask())
    there = [number for number, x in enumerate(PATH) if x is not None]
    overlaps = [iou(seen[number].labels == 1, pictures[number].mask()) for number in there]
    assert min(overlaps) > 0.8, overlaps


def test_leaving_subject_is_lost_and_found_again(followed):
    _, seen = followed
    gone = [number for number, x in enumerate(PATH) if x is None]
    assert [number for number, frame in enumerate(seen) if frame.scores[0] is None] == gone
    assert all(not seen[number].labels.any() for number in gone)
    assert all((seen[number].labels == 1).any() for number in range(len(PATH)) if number not in gone)


def test_each_pixel_has_at_most_one_subject():
    persam = PerSAM.from_pretrained(random_sam(), Method.persam_f(), device="cpu")
    photo, disc = scene(90, 150)
    corner = np.zeros_like(disc)
    corner[:40, :40] = True
    subjects = [persam.personalize(Reference(photo, mask)) for mask in (disc, corner)]
    frame, _ = scene(90, 150, seed=1)
    alone = [VideoSegmenter(persam, [subject], None).follow([frame]) for subject in subjects]
    first, second = (next(seen).labels for seen in alone)
    (both,) = VideoSegmenter(persam, subjects, None).follow([frame])
    assert (first != second).any()
    np.testing.assert_array_equal(both.labels > 0, (first > 0) | (second > 0))
    assert (both.labels[(first > 0) & (second == 0)] == 1).all()
    assert (both.labels[(second > 0) & (first == 0)] == 2).all()


def test_prompts_with_and_without_box():
    persam = PerSAM.from_pretrained(random_sam(), Method.persam_f(), device="cpu")
    photo, mask = scene(90, 150)
    subject = persam.personalize(Reference(photo, mask))
    given = []
    decode = persam.backbone.decode

    def recording(embedding, prompts, *args, **kwargs):
        given.append(prompts)
        return decode(embedding, prompts, *args, **kwargs)

    persam.backbone.decode = recording
    segmenter = VideoSegmenter(persam, [subject], lost_below=None)
    list(segmenter.follow([photo, photo], mask.astype(np.uint8)))
    with_box = given[0]
    box = bounding_box(torch.from_numpy(mask))
    frame = persam.backbone.frame(90, 150)
    edges = (box + box.new_tensor([-10, -10, 10, 10])).clamp(min=0).minimum(box.new_tensor([150, 90, 150, 90]))
    np.testing.assert_allclose(with_box.box, frame.to_model(edges.view(2, 2)).flatten(), atol=1e-4)
    np.testing.assert_allclose(with_box.points[-1], frame.to_model(edges.view(2, 2).sum(0) // 2), atol=1e-4)
    given.clear()
    list(VideoSegmenter(persam, [subject], lost_below=None).follow([photo]))
    assert given[0].box is None
    assert len(given[0].points) == (1 if persam.method.mask_weights else 2)


def test_memory_does_not_grow_with_number_of_frames():
    persam = PerSAM.from_pretrained(random_sam(), Method.persam_f(), device="cpu")
    photo, mask = scene(400, 500)
    segmenter = VideoSegmenter(persam, [persam.personalize(Reference(photo, mask))])

    def peak(count):
        tracemalloc.start()
        for _ in segmenter.follow(photo.copy() for _ in range(count)):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2)
    assert peak(20) < 1.3 * peak(4)


def test_missing_subject_and_other_backbone_are_refused(persam):
    other = PerSAM.from_pretrained(random_sam(), Method.persam_f(), device="cpu")
    with pytest.raises(UserError, match="1 to 255 subjects"):
        VideoSegmenter(persam, [])
    with pytest.raises(UserError, match="made with SamModel"):
        VideoSegmenter(persam, [other.personalize(Reference(*scene(90, 150)))])
