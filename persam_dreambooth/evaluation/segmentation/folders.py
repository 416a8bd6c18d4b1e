"""Benchmarks with a folder per object, class or video: PerSeg, FSS-1000 and PerMIS."""

from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.annotations import read_object_array
from persam_dreambooth.evaluation.segmentation.protocols import (
    Benchmark,
    Episode,
    Shot,
    draw_references,
    require,
    thinned,
)
from persam_dreambooth.photos.files import list_photos, read_photo, read_picture

REFERENCE = "00"
"""File stem of PerSeg's reference photos; with several shots, the next photos are references too. None is scored."""
FRAMES: Final = 3
"""Frames of each of PerMIS's videos."""
MASKS: Final = "masks.npz.npy"
"""File of the masks of one of PerMIS's videos."""


class PerSeg(Benchmark):
    """PerSeg (Zhang et al. 2023): `Images/<object>/NN.jpg` and `Annotations/<object>/NN.png`; 00 is the reference.

    Args:
        data: the folder with `Images` and `Annotations`.

    Raises:
        UserError: another layout.
    """

    name, title, folds = "perseg", "PerSeg", 1

    def __init__(self, data: Path) -> None:
        require(
            data,
            self.title,
            f"Images/<object>/NN.jpg and Annotations/<object>/NN.png, {REFERENCE} the reference",
            f"Images/*/{REFERENCE}.*",
            f"Annotations/*/{REFERENCE}.png",
        )
        self._data = data

    def draw(self, fold: int, random: Random, count: int | None, shots: int = 1) -> list[Episode]:
        """See `Benchmark.draw`: all photos of all objects except the references, which are the first ones."""
        episodes: list[Episode] = []
        for folder in sorted(path for path in (self._data / "Images").iterdir() if path.is_dir()):
            photos = {photo.stem: self._shot(photo) for photo in list_photos(folder)}
            if REFERENCE not in photos or len(photos) <= shots:
                raise UserError(
                    f"{folder} holds {len(photos)} photos; for --shots {shots} PerSeg's objects need "
                    f"{REFERENCE}.jpg and at least {shots} more"
                )
            stems = sorted(photos, key=lambda stem: (stem != REFERENCE, stem))
            references = tuple(photos[stem] for stem in stems[:shots])
            episodes += [
                Episode(f"{folder.name}/{stem}", 0, folder.name, references, photos[stem]) for stem in stems[shots:]
            ]
        return thinned(episodes, random, count)

    def _shot(self, photo: Path) -> Shot:
        mask = self._data / "Annotations" / photo.parent.name / f"{photo.stem}.png"
        if not mask.is_file():
            raise UserError(f"no mask at {mask} for {photo.name}; PerSeg has one for every photo, download it again")
        return Shot(photo.relative_to(self._data).as_posix(), (mask.relative_to(self._data).as_posix(),))

    def read(self, shot: Shot) -> tuple[Image.Image, Image.Image]:
        """See `Benchmark.read`; the mask file is not binarized, because fidelity "official" reads its levels."""
        return _read_files(self._data, shot)


class FSS1000(Benchmark):
    """FSS-1000 (Li et al. 2020): the 240 classes of `splits/test.txt`, `data/<class>/N.jpg` with masks `N.png`.

    Each photo is a query once; its references are other photos of the class, drawn at random.

    Args:
        data: the folder with `data` and `splits`.

    Raises:
        UserError: another layout.
    """

    name, title, folds = "fss", "FSS-1000", 1

    def __init__(self, data: Path) -> None:
        require(
            data,
            self.title,
            "data/<class>/N.jpg, data/<class>/N.png and splits/test.txt",
            "data/*/*.jpg",
            "data/*/*.png",
            "splits/test.txt",
        )
        self._data = data

    def draw(self, fold: int, random: Random, count: int | None, shots: int = 1) -> list[Episode]:
        """See `Benchmark.draw`."""
        episodes: list[Episode] = []
        listed = (self._data / "splits" / "test.txt").read_text(encoding="utf-8").split("\n")
        for group in sorted(line.strip() for line in listed if line.strip()):
            folder = self._data / "data" / group
            photos = sorted(folder.glob("*.jpg"))
            if len(photos) < 2:
                raise UserError(f"{folder} holds {len(photos)} photos; a class of splits/test.txt needs at least two")
            for query in photos:
                references = tuple(map(self._shot, draw_references(photos, query, random, shots)))
                episodes.append(Episode(f"{group}/{query.stem}", 0, group, references, self._shot(query)))
        return thinned(episodes, random, count)

    def _shot(self, photo: Path) -> Shot:
        image = photo.relative_to(self._data)
        return Shot(image.as_posix(), (image.with_suffix(".png").as_posix(),))

    def read(self, shot: Shot) -> tuple[Image.Image, Image.Image]:
        """See `Benchmark.read`."""
        return _read_files(self._data, shot)


class PerMis(Benchmark):
    """PerMIS (Samuel et al. 2024): `<video>/0.jpg`, `1.jpg`, `2.jpg` and `masks.npz.npy`, the frames' masks.

    The task is to find an individual among others of its kind. The first frame is the reference, the other two are
    queries. The masks' file holds a dictionary {object: (H, W) mask} for each frame; the first object is the subject.
    As in INSID3's evaluation, all videos count as one class.

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
            raise UserError(
                f"--shots {shots} leaves no query: a video of {self.title} has {FRAMES} frames; give 1 or {FRAMES - 1}"
            )
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


def _read_files(data: Path, shot: Shot) -> tuple[Image.Image, Image.Image]:
    return read_photo(data / shot.image, managed=False), read_picture(data / str(shot.label[0]))
