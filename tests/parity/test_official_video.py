"""The authors' video scripts, persam_video.py and persam_video_f.py, are reproduced.

`data/video` was recorded by running both, unmodified, on CPU in float32, with the small random SAM, on four drawn
frames with two discs. `FITTED` are the mask weights (w1, w2) that the second script learned for each disc.
"""

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.segmentation import Method, PerSAM, load_backbone
from persam_dreambooth.segmentation.video import VideoSegmenter, first_frame_subject
from tests.parity import recorded_sam

VIDEO = recorded_sam.DATA / "video"
FRAMES = [VIDEO / "frames" / f"{number:05}.jpg" for number in range(4)]
FITTED = ((0.47805, 0.48011), (0.47791, 0.48054))


def follow(method):
    """Return the subjects and the labels of all frames after the first."""
    persam = PerSAM(load_backbone(recorded_sam.original(), device="cpu"), method)
    first = np.asarray(Image.open(VIDEO / "first.png"))
    subjects = [first_frame_subject(persam, FRAMES[0], first == label) for label in (1, 2)]
    followed = VideoSegmenter(persam, subjects, lost_below=None).follow(FRAMES, first)
    return subjects, [frame.labels for frame in followed][1:]


@pytest.mark.parametrize(
    ("method", "name"),
    [(Method("official"), "persam"), (Method.persam_f("official"), "persam_f")],
    ids=["persam_video", "persam_video_f"],
)
def test_recorded_labels(method, name):
    subjects, labels = follow(method)
    for number, found in enumerate(labels, start=1):
        recorded = np.asarray(Image.open(VIDEO / name / f"{number:05}.png"))
        assert np.mean(found != recorded) <= 0.005, number
    for subject, fitted in zip(subjects, FITTED, strict=True):
        if name == "persam_f":
            np.testing.assert_allclose(subject.mask_weights[1:], fitted, atol=2e-3)
        else:
            assert subject.mask_weights is None


def test_fitted_weights_change_labels():
    subjects, labels = follow(Method.persam_f("official"))
    persam = PerSAM(load_backbone(recorded_sam.original(), device="cpu"), Method.persam_f("official"))
    swapped = [type(subject)(**vars(subject) | {"mask_weights": subject.mask_weights.flip(0)}) for subject in subjects]
    first = np.asarray(Image.open(VIDEO / "first.png"))
    other = list(VideoSegmenter(persam, swapped, lost_below=None).follow(FRAMES, first))[-1].labels
    assert np.mean(other != labels[-1]) > 0.01
