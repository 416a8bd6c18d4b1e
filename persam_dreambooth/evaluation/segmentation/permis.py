"""PerMIS: find the same individual among others of its kind in further frames of a video (Samuel et al. 2024)."""

from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.coco import read_object_array
from persam_dreambooth.evaluation.segmentation.protocols import Benchmark, Episode, Shot, require, thinned
from persam_dreambooth.photos.files import read_photo

FRAMES: Final = 3
MASKS: Final = "masks.npz.npy"


class PerMis(Benchmark):
    """PerMIS: `<video>/0.jpg`, `1.jpg`, `2.jpg` and `masks.npz.npy`, a list of {object: (H, W) mask} for each frame.

    The first frame is the reference, the other two are queries; the first object is the subject. As in INSID3's
    evaluation, all videos count as one class.

    Args:
        data: the folder with the videos' folders.

    Raises:
        UserError: another layout.
    """

    name, title, folds = "permis", "PerMIS", 1

    def __init__(self, data: Path) -> None:
        layout = f"<video>/0.jpg, 1.jpg, 2.jpg and {MASKS}"
        require(data, self.title, layout, *(f"*/{frame}.jpg" for frame in range(FRAMES)), f"*/{MASKS}")
        self._data = data

    def draw(self, fold: int, random: Random, count: int | None, shots: int = 1) -> list[Episode]:
        """See `Benchmark.draw`: all frames of all videos except the references, which are the first ones."""
        if shots >= FRAMES:
            raise UserError(f"--shots {shots} leaves no query: a video of {self.title} has {FRAMES} frames")
        episodes: list[Episode] = []
        for video in sorted(path.parent.name for path in self._data.glob(f"*/{MASKS}")):
            frames = [Shot(f"{video}/{frame}.jpg", (video, frame)) for frame in range(FRAMES)]
            references = tuple(frames[:shots])
            episodes += [
                Episode(f"{video}/{frame}", 0, self.title, references, frames[frame]) for frame in range(shots, FRAMES)
            ]
        return thinned(episodes, random, count)

    def read(self, shot: Shot) -> tuple[Image.Image, NDArray[np.bool_]]:
        """See `Benchmark.read`."""
        video, frame = shot.label
        path = self._data / str(video) / MASKS
        masks: Any = read_object_array(path)
        try:
            first = next(iter(masks[frame].values()))
            mask = np.asarray(first) > 0
        except (AttributeError, IndexError, StopIteration, TypeError, ValueError) as error:
            raise UserError(f"{path} is not a list of {FRAMES} dictionaries of masks; make it again") from error
        if mask.ndim != 2:
            raise UserError(f"the mask of frame {frame} in {path} has {mask.ndim} dimensions, not 2; make it again")
        return read_photo(self._data / shot.image, managed=False), mask
