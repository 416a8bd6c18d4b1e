"""PerSAM as an evaluated method: on photos, with a reference mask or box, and on videos."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.evaluation.segmentation.davis import VideoMethod
from persam_dreambooth.evaluation.segmentation.running import EvaluatedMethod, Segmenter
from persam_dreambooth.segmentation import Backbone, Method, PerSAM, Reference, reference_from
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.video import VideoSegmenter


def persam_method(backbone: Backbone, method: Method, box: bool = False) -> EvaluatedMethod:
    """Build PerSAM or PerSAM-F on a SAM.

    Args:
        backbone: the SAM.
        method: fidelity and techniques.
        box: use only the tight box around the reference mask, from which SAM makes the mask (table 6 of the paper).
    """
    persam = PerSAM(backbone, method)

    def learn(reference: Reference) -> Segmenter:
        if box:
            tight = bounding_box(torch.from_numpy(reference.foreground))
            assert tight is not None  # a reference mask is never empty
            reference = reference_from(persam, reference.pixels, box=tight.numpy())
        subject = persam.personalize(reference)
        return lambda photo: persam.segment(photo, subject).mask

    return learn


def persam_video(backbone: Backbone, method: Method) -> VideoMethod:
    """Build PerSAM or PerSAM-F for videos: the first frame's objects are the subjects; none is ever dropped."""
    persam = PerSAM(backbone, method)

    def segment(frames: Iterator[Image.Image], masks: NDArray[np.bool_]) -> Iterator[NDArray[np.uint8]]:
        first = next(frames)
        subjects = [persam.personalize(Reference(first, mask)) for mask in masks]
        numbers = np.arange(1, len(masks) + 1, dtype=np.uint8)
        labels = (masks * numbers[:, None, None]).max(0)  # (H, W)
        followed = VideoSegmenter(persam, subjects, lost_below=None).follow(chain([first], frames), labels)
        return (frame.labels for frame in followed)

    return segment
