"""DAVIS 2017: videos whose first frame is annotated; J and F of every object, the first and last frame left out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.metrics import boundary_f, overlap
from persam_dreambooth.evaluation.segmentation.protocols import require
from persam_dreambooth.evaluation.segmentation.report import WORST, WORST_NAME, write_results
from persam_dreambooth.evaluation.segmentation.running import SCORES_NAME, Journal, open_output
from persam_dreambooth.photos import files, rendering

VOID = 255
"""The label of pixels that do not count."""

Labels = NDArray[np.uint8]
"""(H, W), 0 for the background and k for the k-th object."""
VideoMethod = Callable[[Iterator[Image.Image], NDArray[np.bool_]], Iterable[Labels]]
"""A video's frames, RGB, the first one included, and the (N, H, W) bool masks of its objects in the first
frame; gives labels for every frame in order, the first one included."""


class Davis:
    """The videos that `ImageSets/2017/val.txt` names.

    Args:
        data: the folder that holds `ImageSets`, `JPEGImages` and `Annotations`.

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
        """Their names, in the file's order."""

    def frames(self, video: str) -> list[Path]:
        """The photos of a video, in order.

        Raises:
            UserError: fewer than three, of which the middle ones are scored.
        """
        found = sorted((self._data / "JPEGImages" / "480p" / video).glob("*.jpg"))
        if len(found) < 3:
            raise UserError(f"the video {video} in {self._data} has {len(found)} frames; three or more are needed")
        return found

    def labels(self, video: str, frame: Path) -> Labels:
        """The annotation of a frame, (H, W) uint8: 0, the objects' numbers, and `VOID`."""
        path = self._data / "Annotations" / "480p" / video / f"{frame.stem}.png"
        picture = files.read_picture(path)
        if picture.mode not in ("P", "L"):
            raise UserError(f"{path} has mode {picture.mode}; DAVIS's annotations are palette pictures of numbers")
        return np.asarray(picture, dtype=np.uint8)


def evaluate_davis(
    davis: Davis,
    method: Callable[[], VideoMethod],
    output: Path,
    settings: Mapping[str, Any],
    paper: Mapping[str, float],
) -> dict[str, float]:
    """Segment and score every video once, however often this is interrupted and called again.

    Args:
        davis: the videos.
        method: makes what segments them; called only when a video is still to be done.
        output: folder for `masks/<video>/NNNNN.png`, scores and results.
        settings: what makes this run this run; another run's folder is refused.
        paper: measure -> the paper's number, where it is known.

    Returns:
        J, F and J&F in percent, the means over all objects of all videos.

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
    """Segment one video, write its labels into a folder, and score it.

    Returns:
        An object each: its number, J and F in [0, 1] as means over the scored frames, the frame where J is lowest.

    Raises:
        UserError: a file that cannot be read, or a method that gives too few labels or labels of another size.
    """
    frames = davis.frames(video)
    first = davis.labels(video, frames[0])
    objects = [int(label) for label in np.unique(first) if label not in (0, VOID)]
    found = iter(method((files.read_photo(frame) for frame in frames), np.stack([first == one for one in objects])))
    scores: dict[int, list[tuple[float, float, str]]] = {one: [] for one in objects}
    for number, frame in enumerate(frames):
        labels = next(found, None)
        if labels is None:
            raise UserError(f"the video {video} has {len(frames)} frames but only {number} were segmented")
        if labels.max(initial=0) > len(objects):
            raise UserError(f"label {labels.max()} was given in the video {video}, which has {len(objects)} objects")
        numbered = np.array([0, *objects], dtype=np.uint8)[labels]  # as the annotations number them
        files.write_picture(Image.fromarray(numbered), folder / f"{frame.stem}.png")
        if number in (0, len(frames) - 1):
            continue
        true = davis.labels(video, frame)
        void = true == VOID
        for one in objects:
            pair = (numbered == one, true == one, void)
            scores[one].append((overlap(*pair).iou, boundary_f(*pair), frame.stem))
    return [
        {
            "object": one,
            "J": fmean(j for j, _, _ in scored),
            "F": fmean(f for _, f, _ in scored),
            "worst_frame": min(scored)[2],
        }
        for one, scored in scores.items()
    ]


def _worst_frames(davis: Davis, output: Path, rows: list[dict[str, Any]]) -> None:
    """Write `worst.png`: of the objects with the lowest J the true mask and the found one in their worst frame."""
    pictures, captions = [], []
    for row in sorted(rows, key=lambda row: row["J"])[:WORST]:
        video, one = row["video"], row["object"]
        frame = next(path for path in davis.frames(video) if path.stem == row["worst_frame"])
        image, true = files.read_photo(frame), davis.labels(video, frame)
        found = np.asarray(files.read_picture(output / "masks" / video / f"{frame.stem}.png"))
        pair = [rendering.overlay(image, true == one), rendering.overlay(image, found == one)]
        pictures.append(rendering.joined(pair, across=True))
        captions.append(f"J {100 * row['J']:.0f} %  {video}  object {one}  frame {frame.stem}")
    files.write_picture(rendering.sheet(pictures, captions, columns=4), output / WORST_NAME)
