"""Segment subjects in a video: label masks, scores and an overlay video; `segment_folder` does this for photos."""

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

from persam_dreambooth.errors import UserError, counted
from persam_dreambooth.photos import files, video_io
from persam_dreambooth.segmentation import OneShotSegmenter, SegGptVideoSegmenter, Subject, VideoSegmenter
from persam_dreambooth.segmentation.memory_video import MemorySegmenter, VideoModel
from persam_dreambooth.segmentation.seggpt_video import video_segmenter
from persam_dreambooth.segmentation.video import first_frame_subject

LOG_NAME, OVERLAY_NAME, MASKS = "frames.jsonl", "overlay.mp4", "masks"


@dataclass(frozen=True)
class FrameLine:
    """One line of `frames.jsonl`.

    Attributes:
        frame: frame number, from 0.
        mask: path of the label mask, relative to the output folder.
        scores: predicted IoU of each subject's mask; None for a subject that was not found in the frame.
    """

    frame: int
    mask: str
    scores: list[float | None]


@dataclass(frozen=True)
class Followed:
    """Summary of a segmented video.

    Attributes:
        count: number of frames.
        lost: for each subject, in label order, the numbers of the frames in which it was not found.
    """

    count: int
    lost: list[list[int]]


def segment_video(
    method: OneShotSegmenter | None,
    source: Path,
    output: Path,
    subjects: list[Subject] | None = None,
    first_mask: Path | None = None,
    lost_below: float | None = 0.7,
    memory: VideoModel | None = None,
) -> Followed:
    """Track subjects through a video file or a folder of frames; memory use does not grow with its length.

    Args:
        method: segments the frames; may be None with `memory` and `first_mask`.
        source: video file or folder of frames.
        output: folder for `masks/00000.png` ..., `frames.jsonl` and `overlay.mp4`; must be empty or absent.
        subjects: saved subjects to track; None tracks those in `first_mask`.
        first_mask: file of the first frame's mask: a palette image whose values are labels, or any mask of one
            subject; see `read_labels`.
        lost_below: predicted IoU below which a subject counts as absent from a frame; None counts none as absent. Not
            used by SegGPT, which loses a subject where its mask is empty. With `memory`: minimum predicted IoU of the
            method's mask that starts a track.
        memory: video model whose learned memory tracks the subjects; None tracks with the method alone, as
            PerSAM's authors do.

    Returns:
        The number of frames, and the frames in which each subject was lost.

    Raises:
        UserError: the video cannot be read, there is no subject or no model, the first mask has another size than the
            frames, or the frames have different sizes. If a video turns out to be damaged, the output holds the frames
            before the damage.
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
    segmenter = _segmenter(method, memory, subjects, first, labels, lost_below)
    return _write(segmenter, chain([first], pictures), labels, output, video_io.frame_rate(source), total)


def _segmenter(
    method: OneShotSegmenter | None,
    memory: VideoModel | None,
    subjects: list[Subject] | None,
    first: Image.Image,
    labels: NDArray[np.uint8] | None,
    lost_below: float | None,
) -> VideoSegmenter | SegGptVideoSegmenter | MemorySegmenter:
    """Return the tracker: a video model, which takes the first frame's labels as they are, or the method alone."""
    if memory is not None:
        return MemorySegmenter(memory, method, subjects or [], lost_below)
    if method is None:
        raise UserError("a video needs PerSAM or a video model to track its subjects; give one of them")
    if labels is not None:
        subjects = [first_frame_subject(method, first, labels == number) for number in range(1, labels.max() + 1)]
    return video_segmenter(method, subjects or [], lost_below)


def _write(
    segmenter: VideoSegmenter | SegGptVideoSegmenter | MemorySegmenter,
    pictures: Iterator[Image.Image],
    labels: NDArray[np.uint8] | None,
    output: Path,
    rate: Fraction,
    total: int | None,
) -> Followed:
    """Segment and write frame by frame; on damage or Ctrl-C, complete the output of the frames so far, then raise."""
    ended: UserError | KeyboardInterrupt | None = None
    found: list[tuple[float | None, ...]] = []
    first = next(pictures)
    overlay = video_io.overlay_video(output / OVERLAY_NAME, first.size, rate)
    with overlay as add, files.replacing(output / LOG_NAME) as temporary, temporary.open("w") as log:
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
    lost = [[frame for frame, score in enumerate(scores) if score is None] for scores in zip(*found, strict=True)]
    return Followed(len(found), lost)


def read_labels(path: Path, frame: Image.Image) -> NDArray[np.uint8]:
    """Read the labels of the first frame from a mask file.

    Args:
        path: a palette image whose values are the labels, as in DAVIS, or any mask of one subject.
        frame: the first frame.

    Returns:
        (H, W) uint8 of the frame's size: 0 is background, 1 to n are the subjects.

    Raises:
        UserError: the mask has another size than the frame, is empty, or its labels are not 1, 2, 3, ...
    """
    picture = files.read_picture(path)
    labels = np.asarray(picture) if _is_numbered(picture) else files.read_mask(path).astype(np.uint8)
    if labels.shape != (frame.height, frame.width):
        raise UserError(
            f"the first mask {path} has {labels.shape[1]} x {labels.shape[0]} pixels, the video's frames "
            f"{frame.width} x {frame.height}; draw it on the first frame"
        )
    present = np.unique(labels[labels > 0]).tolist()
    if not present or present != list(range(1, len(present) + 1)):
        raise UserError(f"the first mask {path} has the labels {present or 'none'}; number the subjects 1, 2, 3, ...")
    return np.asarray(labels, dtype=np.uint8)


def _is_numbered(picture: Image.Image) -> bool:
    """Return whether a mask is a palette image whose values number the subjects.

    One subject on black is not: editors give black and the other colour any two numbers, also white 0 and black 1.
    """
    if picture.mode != "P":
        return False
    is_black = np.asarray(picture.convert("L")).min() == 0
    return not (is_black and len(np.unique(np.asarray(picture))) == 2)
