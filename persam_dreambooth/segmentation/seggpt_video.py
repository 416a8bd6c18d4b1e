"""Track subjects through a video with SegGPT: the first frame and the last few frames are its examples.

This follows `inference_video` of the authors' code, for several subjects.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.multi_mask import share_out
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.seggpt import HALF, SegGPT
from persam_dreambooth.segmentation.subject import Examples, Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture
from persam_dreambooth.segmentation.video import VideoFrame, VideoSegmenter

REMEMBERED: Final = 128.0
"""Brightness above which a pixel of a remembered frame is marked, as in the authors' code."""


class SegGptVideoSegmenter:
    """Track subjects from frame to frame; memory use does not grow with the number of frames.

    A subject's examples are its references and the last frames with the masks that were found in them, up to
    `SegGptMethod.memory_frames`. A subject whose mask is empty counts as lost, and is searched for in the next frame.

    Args:
        segmenter: the method that made the subjects.
        subjects: the subjects to track, in the order of their labels.

    Raises:
        UserError: no subject, more than 255, or one of another model or method.
    """

    def __init__(self, segmenter: SegGPT, subjects: Sequence[Subject]) -> None:
        if not 1 <= len(subjects) <= 255:
            raise UserError(f"a video is segmented for 1 to 255 subjects, not {len(subjects)}")
        for subject in subjects:
            segmenter.check(subject)
        self._segmenter, self._subjects = segmenter, list(subjects)
        self._photos: deque[Tensor] = deque(maxlen=segmenter.method.memory_frames)  # (3, S, S) uint8
        self._masks: deque[Tensor] = deque(maxlen=segmenter.method.memory_frames)  # (subjects, S, S) bool

    def follow(self, frames: Iterable[Picture], first_labels: NDArray[np.uint8] | None = None) -> Iterator[VideoFrame]:
        """Segment a stream of frames, yielding one `VideoFrame` each; a later call continues where the last ended.

        Args:
            frames: any number of frames, all of the same size.
            first_labels: (H, W) uint8, the known labels of the first frame, from which the subjects were learned;
                returned as the first result, with a score of 1 for each subject in it.
        """
        for frame in frames:
            if first_labels is None:
                yield self._look(self._segmenter.encode([frame])[0])
                continue
            numbers = range(1, len(self._subjects) + 1)
            yield VideoFrame(first_labels, tuple(1.0 if (first_labels == n).any() else None for n in numbers))
            first_labels = None

    def _look(self, photo: EncodedPhoto) -> VideoFrame:
        """Segment all subjects in one frame, and remember it; each pixel goes to the subject painted brightest."""
        found = [self._segmenter.segment_encoded(photo, subject) for subject in self._examples()]
        logits = torch.stack([torch.from_numpy(segmentation.logits) for segmentation in found])
        on_photo = photo.frame.to_original(logits)
        labels = share_out(on_photo, (photo.frame.height, photo.frame.width))
        scores = tuple(
            segmentation.score if (labels == number).any() else None
            for number, segmentation in enumerate(found, start=1)
        )
        brightness = (logits + 1) * HALF
        self._photos.append(photo.embedding.byte())
        self._masks.append((brightness > REMEMBERED) & (brightness == brightness.amax(0)))
        return VideoFrame(labels, scores)

    def _examples(self) -> Iterator[Subject]:
        """Yield each subject with the remembered frames as further examples."""
        for number, subject in enumerate(self._subjects):
            own = subject.examples
            assert own is not None, "the subject was checked"
            images = torch.stack([*own.images, *(photo.to(own.images.device) for photo in self._photos)])
            masks = torch.stack([*own.masks, *(masks[number].to(own.masks.device) for masks in self._masks)])
            yield subject.with_examples(Examples(images, masks))


def video_segmenter(
    segmenter: OneShotSegmenter, subjects: Sequence[Subject], lost_below: float | None = 0.7
) -> VideoSegmenter | SegGptVideoSegmenter:
    """Return the tracker that uses the method alone: `SegGptVideoSegmenter` for SegGPT, else `VideoSegmenter`.

    Args:
        segmenter: the method that made the subjects.
        subjects: the subjects to track, in the order of their labels.
        lost_below: see `VideoSegmenter`; SegGPT does not use it.
    """
    if isinstance(segmenter, SegGPT):
        return SegGptVideoSegmenter(segmenter, subjects)
    return VideoSegmenter(segmenter, subjects, lost_below)
