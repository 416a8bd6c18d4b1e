"""DAVIS 2017: J and F of each object in videos with a given first frame; first and last frames are not scored."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.metrics import boundary_f, overlap
from persam_dreambooth.evaluation.segmentation.protocols import read_labels, require
from persam_dreambooth.evaluation.segmentation.report import WORST, WORST_NAME, write_results
from persam_dreambooth.evaluation.segmentation.running import SCORES_NAME, Journal, open_output
from persam_dreambooth.photos import files, rendering
from persam_dreambooth.segmentation import OneShotSegmenter
from persam_dreambooth.segmentation.memory_video import MemorySegmenter, VideoModel
from persam_dreambooth.segmentation.seggpt_video import video_segmenter
from persam_dreambooth.segmentation.video import first_frame_subject

VOID = 255
"""Label of pixels that are ignored."""

Labels = NDArray[np.uint8]
"""(H, W), 0 for the background and k for the k-th object."""
VideoMethod = Callable[[Iterator[Image.Image], NDArray[np.bool_]], Iterable[Labels]]
"""Maps a video's RGB frames, including the first, and the (N, H, W) bool masks of its objects in the first frame
to the labels of all frames in order, including the first."""


class Davis:
    """The videos listed in `ImageSets/2017/val.txt`.

    Args:
        data: the folder with `ImageSets`, `JPEGImages` and `Annotations`.

    Raises:
        UserError: another layout.
    """

    name, title = "davis", "DAVIS 2017 val"

    def __init__(self, data: Path) -> None:
        split = "ImageSets/2017/val.txt"
        layout = f"{split}, JPEGImages/480p/<video>/NNNNN.jpg and Annotations/480p/<video>/NNNNN.png"
        require(data, self.title, layout, split, "JPEGImages/480p/*/*.jpg", "Annotations/480p/*/*.png")
        self._data = data
        self.videos = (data / split).read_text(encoding="utf-8").split()
        """Names of the videos, in the file's order."""

    def frames(self, video: str) -> list[Path]:
        """List the frames of a video, in order.

        Raises:
            UserError: fewer than three frames, so none between the first and the last to score.
        """
        found = sorted((self._data / "JPEGImages" / "480p" / video).glob("*.jpg"))
        if len(found) < 3:
            raise UserError(
                f"the video {video} in {self._data} has {len(found)} frames, and at least three are needed; "
                f"download {self.title} again"
            )
        return found

    def labels(self, video: str, frame: Path) -> Labels:
        """Read the annotation of a frame, (H, W) uint8: 0, the objects' numbers, and `VOID`."""
        return read_labels(self._data / "Annotations" / "480p" / video / f"{frame.stem}.png")


def evaluate_davis(
    davis: Davis,
    method: Callable[[], VideoMethod],
    output: Path,
    settings: Mapping[str, Any],
    paper: Mapping[str, float],
) -> dict[str, float]:
    """Segment and score all videos; an interrupted run resumes with the videos that are left.

    Args:
        davis: the videos.
        method: builds the method; called only if there are videos left.
        output: folder for `masks/<video>/NNNNN.png`, scores and results.
        settings: identifies the run; a folder of another run is refused.
        paper: measure -> the paper's number, if known.

    Returns:
        J, F and J&F in percent, averaged over all objects of all videos.

    Raises:
        UserError: another run's folder, or a video that cannot be read.
    """
    open_output(output, settings)
    journal = Journal(output / SCORES_NAME)
    done = {line["video"]: line["objects"] for line in journal.lines()}
    waiting = [video for video in davis.videos if video not in done]
    segment = method() if waiting else None
    for video in tqdm(waiting, desc=davis.title, unit="video"):
        assert segment is not None
        done[video] = score_video(davis, video, segment, output / "masks" / video)
        journal.append({"video": video, "objects": done[video]})
    rows = [{"video": video} | row for video in davis.videos for row in done[video]]
    if not rows:
        raise UserError(f"no object in any of the {len(davis.videos)} videos of {davis.title}; download it again")
    ours = {name: 100 * fmean(float(row[name]) for row in rows) for name in ("J", "F")}
    ours["J&F"] = (ours["J"] + ours["F"]) / 2
    write_results(output, settings, {"ours": ours, "paper": dict(paper)}, rows)
    _worst_frames(davis, output, rows)
    return ours


def score_video(davis: Davis, video: str, method: VideoMethod, folder: Path) -> list[dict[str, Any]]:
    """Segment one video, write its labels to a folder, and score it.

    Returns:
        One row per object: its number, J and F in [0, 1] averaged over the scored frames, the frame with the lowest
        J.

    Raises:
        UserError: a file cannot be read, or the method returns too few labels or labels of another size.
    """
    frames = davis.frames(video)
    first = davis.labels(video, frames[0])
    objects = [int(label) for label in np.unique(first) if label not in (0, VOID)]
    if not objects:
        raise UserError(f"the first frame of the video {video} shows no object; download {davis.title} again")
    masks = np.stack([first == label for label in objects])
    found = iter(method((files.read_photo(frame, managed=False) for frame in frames), masks))
    scores: dict[int, list[tuple[float, float, str]]] = {label: [] for label in objects}
    for number, frame in enumerate(frames):
        labels = next(found, None)
        if labels is None:
            raise UserError(
                f"the video {video} has {len(frames)} frames but only {number} were segmented; the method must return "
                "labels for every frame"
            )
        if labels.max(initial=0) > len(objects):
            raise UserError(
                f"label {labels.max()} was returned for the video {video}, which has {len(objects)} objects; "
                f"the method may return labels from 0 to {len(objects)}"
            )
        numbered = np.array([0, *objects], dtype=np.uint8)[labels]  # the numbers of the annotations
        files.write_picture(Image.fromarray(numbered), folder / f"{frame.stem}.png")
        if number in (0, len(frames) - 1):
            continue
        true = davis.labels(video, frame)
        void = true == VOID
        for label in objects:
            masks_and_void = (numbered == label, true == label, void)
            scores[label].append((overlap(*masks_and_void).iou, boundary_f(*masks_and_void), frame.stem))
    return [
        {
            "object": label,
            "J": fmean(j for j, _, _ in scored),
            "F": fmean(f for _, f, _ in scored),
            "worst_frame": min(scored)[2],
        }
        for label, scored in scores.items()
    ]


def _worst_frames(davis: Davis, output: Path, rows: list[dict[str, Any]]) -> None:
    """Write `worst.png`: the true and the found masks of the objects with the lowest J, in their worst frames."""
    pictures, captions = [], []
    for row in sorted(rows, key=lambda row: row["J"])[:WORST]:
        video, label = row["video"], row["object"]
        frame = next(path for path in davis.frames(video) if path.stem == row["worst_frame"])
        image, true = files.read_photo(frame), davis.labels(video, frame)
        found = np.asarray(files.read_picture(output / "masks" / video / f"{frame.stem}.png"))
        pair = [rendering.overlay(image, true == label), rendering.overlay(image, found == label)]
        pictures.append(rendering.joined(pair, across=True))
        captions.append(f"J {100 * row['J']:.0f} %  {video}  object {label}  frame {frame.stem}")
    files.write_picture(rendering.sheet(pictures, captions, columns=4), output / WORST_NAME)


def one_shot_video(segmenter: OneShotSegmenter) -> VideoMethod:
    """Evaluate a one-shot method on videos: the first frame's objects are the subjects; none is ever dropped."""

    def segment(frames: Iterator[Image.Image], masks: NDArray[np.bool_]) -> Iterator[NDArray[np.uint8]]:
        first = next(frames)
        subjects = [first_frame_subject(segmenter, first, mask) for mask in masks]
        segmented = video_segmenter(segmenter, subjects, lost_below=None)
        return (frame.labels for frame in segmented.follow(chain([first], frames), _numbered(masks)))

    return segment


def memory_video(model: VideoModel) -> VideoMethod:
    """Evaluate the learned memory of SAM 2 or EdgeTAM, which is given the first frame's objects."""

    def segment(frames: Iterator[Image.Image], masks: NDArray[np.bool_]) -> Iterator[Labels]:
        return (frame.labels for frame in MemorySegmenter(model).follow(frames, _numbered(masks)))

    return segment


def _numbered(masks: NDArray[np.bool_]) -> Labels:
    """Return the labels of (N, H, W) bool masks without overlap."""
    numbers = np.arange(1, len(masks) + 1, dtype=np.uint8)
    labels: Labels = (masks * numbers[:, None, None]).max(0)
    return labels
