"""Videos with SegGPT: the remembered frames, lost subjects, and which tracker a method gets."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Method, PerSAM, SegGptVideoSegmenter
from persam_dreambooth.segmentation.seggpt_video import video_segmenter
from persam_dreambooth.segmentation.video import VideoSegmenter, first_frame_subject
from random_models import random_sam
from tests.scene import scene
from tests.segmentation.test_seggpt import built, reference


def film(count=5, size=(48, 80)):
    return [scene(*size, seed)[0] for seed in range(count)]


def labelled():
    """Two subjects in the first frame: the disc and a corner."""
    labels = scene(48, 80)[1].astype(np.uint8)
    labels[-10:, :10] = 2
    return labels


def test_video_keeps_a_bounded_memory_and_resumes_between_calls():
    seggpt, frames, labels = built(memory_frames=2), film(6), labelled()
    subjects = [first_frame_subject(seggpt, frames[0], labels == number) for number in (1, 2)]
    whole = [frame.labels for frame in SegGptVideoSegmenter(seggpt, subjects).follow(frames, labels)]
    split = SegGptVideoSegmenter(seggpt, subjects)
    parts = [*split.follow(frames[:3], labels), *split.follow(frames[3:])]
    np.testing.assert_array_equal([part.labels for part in parts], whole)
    np.testing.assert_array_equal(whole[0], labels)
    assert len(split._photos) == len(split._masks) == 2
    assert [len(subject.examples.images) for subject in split._examples()] == [3, 3]
    assert not split._masks[-1].all(0).any()  # the remembered masks of two subjects do not overlap
    with pytest.raises(UserError, match="1 to 255 subjects"):
        SegGptVideoSegmenter(seggpt, [])


def test_frame_in_which_nothing_is_painted_is_lost():
    seggpt = built()
    seggpt._model.decoder.decoder_pred.head.bias.data.fill_(-10)  # black everywhere
    subject = seggpt.personalize(reference())
    (seen,) = SegGptVideoSegmenter(seggpt, [subject]).follow(film(1))
    assert seen.scores == (None,) and not seen.labels.any()
    found = seggpt.segment(film(1)[0], subject)
    assert found.box is None and found.score == 0 and "empty" in found.warnings[0]


def test_known_first_labels_come_back_with_scores_of_the_subjects_in_them():
    seggpt, frames, labels = built(), film(2), labelled()
    subjects = [first_frame_subject(seggpt, frames[0], labels == number) for number in (1, 2)]
    labels[labels == 2] = 0
    first, second = SegGptVideoSegmenter(seggpt, subjects).follow(frames, labels)
    np.testing.assert_array_equal(first.labels, labels)
    assert first.scores == (1.0, None)
    (alone,) = SegGptVideoSegmenter(seggpt, subjects).follow(frames[1:])
    np.testing.assert_array_equal(second.labels, alone.labels)
    assert second.scores == alone.scores and (second.labels != labels).any()


def test_no_and_too_many_subjects_and_one_of_another_model_are_refused():
    seggpt = built()
    subject = seggpt.personalize(reference())
    for subjects in ([], [subject] * 256):
        with pytest.raises(UserError, match=f"1 to 255 subjects, not {len(subjects)}"):
            SegGptVideoSegmenter(seggpt, subjects)
    with pytest.raises(UserError, match="load that model"):
        SegGptVideoSegmenter(seggpt, [subject, replace(subject, checksum="00000000")])


def test_each_method_gets_its_tracker():
    seggpt, persam = built(), PerSAM.from_pretrained(random_sam(), Method.persam_f(), device="cpu")
    assert type(video_segmenter(seggpt, [seggpt.personalize(reference())])) is SegGptVideoSegmenter
    subject = persam.personalize(reference(), torch.tensor([1.0, 0, 0]))
    patient, strict = (video_segmenter(persam, [subject], lost_below) for lost_below in (None, 9.0))
    assert type(patient) is type(strict) is VideoSegmenter
    (frame,) = film(1)
    assert next(patient.follow([frame])).scores != (None,)
    assert next(strict.follow([frame])).scores == (None,)
