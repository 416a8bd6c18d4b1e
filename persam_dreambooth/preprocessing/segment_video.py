"""A video and its subjects in; label masks, scores and an overlay video out.

Where frames on disk and segmentation meet; `preprocessing.py` is the same for photos.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, video_io
from persam_dreambooth.segmentation import PerSAM, Reference, Subject, VideoSegmenter
from persam_dreambooth.segmentation.memory_video import MemorySegmenter, VideoModel
from persam_dreambooth.words import counted

LOG_NAME, OVERLAY_NAME, MASKS = "frames.jsonl", "overlay.mp4", "masks"


@dataclass(frozen=True)
class FrameLine:
    """One line of `frames.jsonl`.

    Attributes:
        frame: number, from 0.
        mask: path relative to the output folder.
        scores: predicted IoU of each subject's mask, None for one that is not there.
    """

    frame: int
    mask: str
    scores: list[float | None]


@dataclass(frozen=True)
class Followed:
    """What a video was found to hold.

    Attributes:
        count: of frames.
        lost: for each subject, in the order of their labels, the numbers of the frames in which it was not found.
    """

    count: int
    lost: list[list[int]]


def segment_video(
    persam: PerSAM | None,
    source: Path,
    output: Path,
    subjects: list[Subject] | None = None,
    first_mask: Path | None = None,
    lost_below: float | None = 0.7,
    memory: VideoModel | None = None,
) -> Followed:
    """Follow subjects through a video file or a folder of frames; memory does not grow with its length.

    Args:
        persam: whose backbone looks; with `memory` and `first_mask` it is not needed.
        source: the video.
        output: folder for `masks/00000.png` ..., `frames.jsonl` and `overlay.mp4`; must be empty or absent.
        subjects: saved subjects to look for; None takes those of `first_mask`.
        first_mask: where they are in the first frame: a palette or grey picture whose values
            are labels, or any drawing of one mask.
        lost_below: predicted IoU below which a subject counts as gone; None never gives one up. With a memory:
            below which a mask of PerSAM's does not start to be followed.
        memory: the model with whose learned memory they are followed; None follows them the authors' way.

    Returns:
        How many frames there were, and in which of them a subject was lost.

    Raises:
        UserError: no video, no subject, nothing to look with, a first mask of another size than the frames, frames
            of several sizes; or a video is damaged, and then the output holds all frames before.
    """
    files.check_output_folder(output)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; choose another output folder or delete this one")
    if (subjects is None) == (first_mask is None):
        raise UserError("a video needs its subjects from one place: saved subjects, or the first frame's mask")
    total = video_io.count_frames(source)
    pictures = video_io.read_frames(source)
    first = next(pictures, None)
    if first is None:
        raise UserError(f"{source} holds no frame; give another video")
    labels = None if first_mask is None else read_labels(first_mask, first)
    segmenter = _segmenter(persam, memory, subjects, first, labels, lost_below)
    return _write(segmenter, chain([first], pictures), labels, output, video_io.frame_rate(source), total)


def _segmenter(
    persam: PerSAM | None,
    memory: VideoModel | None,
    subjects: list[Subject] | None,
    first: Image.Image,
    labels: NDArray[np.uint8] | None,
    lost_below: float | None,
) -> VideoSegmenter | MemorySegmenter:
    """Who follows the subjects: a memory, which takes the first frame's labels as they are, or PerSAM alone."""
    if memory is not None:
        return MemorySegmenter(memory, persam, subjects or [], lost_below)
    if persam is None:
        raise UserError("a video is followed by PerSAM, or by a memory; give one of them")
    if labels is not None:
        subjects = [persam.personalize(Reference(first, labels == number)) for number in range(1, labels.max() + 1)]
    return VideoSegmenter(persam, subjects or [], lost_below)


def _write(
    segmenter: VideoSegmenter | MemorySegmenter,
    pictures: Iterator[Image.Image],
    labels: NDArray[np.uint8] | None,
    output: Path,
    rate: Fraction,
    total: int | None,
) -> Followed:
    """Segment and write a frame at a time; a video that turns out to be damaged, or Ctrl-C, ends it there."""
    ended: UserError | KeyboardInterrupt | None = None
    found: list[tuple[float | None, ...]] = []
    first = next(pictures)
    overlay = video_io.overlay_video(output / OVERLAY_NAME, first.size, rate)
    with overlay as add, files.replacing(output / LOG_NAME) as beside, beside.open("w") as log:
        try:
            for picture in tqdm(chain([first], pictures), desc="Segmenting", unit="frame", total=total):
                (seen,) = segmenter.follow([picture], None if found else labels)
                path = f"{MASKS}/{len(found):05d}.png"
                video_io.write_labels(seen.labels, output / path)
                add(picture, seen.labels)
                scores = [None if score is None else round(score, 6) for score in seen.scores]
                log.write(json.dumps(asdict(FrameLine(len(found), path, scores))) + "\n")
                found.append(seen.scores)
        except (UserError, KeyboardInterrupt) as error:
            if not found:
                raise
            ended = error
    if isinstance(ended, UserError):
        raise UserError(f"{ended}; {output} holds the {counted(len(found), 'frame')} before") from ended
    if ended is not None:
        raise ended
    lost = [[frame for frame, score in enumerate(one) if score is None] for one in zip(*found, strict=True)]
    return Followed(len(found), lost)


def read_labels(path: Path, frame: Image.Image) -> NDArray[np.uint8]:
    """The first frame's labels, (H, W) uint8 in 0..n.

    A palette picture's values are the labels, as DAVIS has them; anything else is one mask.

    Raises:
        UserError: another size than the frame's, empty, or labels with a gap.
    """
    picture = files.read_picture(path)
    labels = np.asarray(picture) if picture.mode == "P" else files.read_mask(path).astype(np.uint8)
    if labels.shape != (frame.height, frame.width):
        raise UserError(
            f"the first mask {path} has {labels.shape[1]} x {labels.shape[0]} pixels, the video's frames "
            f"{frame.width} x {frame.height}; draw it on the first frame"
        )
    there = np.unique(labels[labels > 0]).tolist()
    if not there or there != list(range(1, len(there) + 1)):
        raise UserError(f"the first mask {path} has the labels {there or 'none'}; number the subjects 1, 2, 3, ...")
    return np.asarray(labels, dtype=np.uint8)
