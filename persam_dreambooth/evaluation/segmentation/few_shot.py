"""Few-shot benchmarks with label maps, with the folds of HSNet (Min et al. 2021): COCO-20i, PASCAL-5i.

Their label maps hold the classes' numbers, counted from 1, and 0 for the background.
"""

from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.annotations import read_annotations
from persam_dreambooth.evaluation.segmentation.protocols import (
    Benchmark,
    Episode,
    Shot,
    draw_references,
    read_labels,
    require,
)
from persam_dreambooth.photos.files import read_photo

EPISODES = 1000
"""Number of episodes of each fold, as in HSNet's test."""
VOID = 255
"""Label of PASCAL's pixels that are not scored."""


class Coco20i(Benchmark):
    """COCO-20i: 4 folds of 20 classes, fold f has classes f + 1, f + 5, ...; all instances of a class are one mask.

    Args:
        data: the folder with the COCO 2014 photos in `train2014` and `val2014`, label maps with the same names in
            `annotations`, and for each fold `splits/val/fold<f>.pkl`: {class, from 0: [photo, such as
            "val2014/COCO_val2014_000000000042.jpg"]}.

    Raises:
        UserError: another layout.
    """

    name, title, folds = "coco20", "COCO-20i", 4
    classes = 80

    def __init__(self, data: Path) -> None:
        layout = "train2014, val2014, annotations with label maps, and splits/val/fold0.pkl to fold3.pkl"
        lists = [f"splits/val/fold{fold}.pkl" for fold in range(self.folds)]
        require(data, self.title, layout, "*2014", "annotations/*2014", *lists)
        self._data = data

    def draw(self, fold: int, random: Random, count: int | None, shots: int = 1) -> list[Episode]:
        """See `Benchmark.draw`: class, query and references at random."""
        listed = read_annotations(self._data / "splits" / "val" / f"fold{fold}.pkl")
        photos = {number: listed.get(number, []) for number in range(fold, self.classes, self.folds)}
        classes = [number for number, own in photos.items() if len(set(own)) > 1]
        if not classes:
            raise UserError(f"fold {fold} of {self.title} has no class with two photos; download its splits again")
        episodes = []
        for number in range(EPISODES if count is None else count):
            group = random.choice(classes)
            chosen = random.choice(photos[group])
            query, *references = (
                Shot(photo, (group + 1,)) for photo in (chosen, *draw_references(photos[group], chosen, random, shots))
            )
            episodes.append(Episode(f"{fold}/{number:05d}", fold, str(group + 1), tuple(references), query))
        return episodes

    def read(self, shot: Shot) -> tuple[Image.Image, NDArray[np.bool_]]:
        """See `Benchmark.read`."""
        labels = read_labels((self._data / "annotations" / shot.image).with_suffix(".png"))
        return read_photo(self._data / shot.image, managed=False), labels == shot.label[0]


class Pascal5i(Benchmark):
    """PASCAL-5i: 4 folds of 5 classes in their order; the photos' pixels along the objects' edges are not scored.

    Args:
        data: the folder with `VOC2012/JPEGImages`, `VOC2012/SegmentationClassAug` (label maps) and HSNet's lists
            `splits/pascal/val/fold<f>.txt`, with a photo and its class in each line ("2007_000033__01").

    Raises:
        UserError: another layout.
    """

    name, title, folds = "pascal5", "PASCAL-5i", 4
    photos, labels = "VOC2012/JPEGImages", "VOC2012/SegmentationClassAug"

    def __init__(self, data: Path) -> None:
        lists = [f"splits/pascal/val/fold{fold}.txt" for fold in range(self.folds)]
        layout = f"{self.photos}, {self.labels} and splits/pascal/val/fold0.txt to fold3.txt"
        require(data, self.title, layout, f"{self.photos}/*.jpg", f"{self.labels}/*.png", *lists)
        self._data = data
        self._labels = lru_cache(2)(lambda name: read_labels(data / self.labels / f"{name}.png"))

    def draw(self, fold: int, random: Random, count: int | None, shots: int = 1) -> list[Episode]:
        """See `Benchmark.draw`: the listed photos in their order, from the first one again after the last."""
        listed = self._listed(fold)
        episodes = []
        for number in range(EPISODES if count is None else count):
            chosen, group = listed[number % len(listed)]
            alike = [photo for photo, other in listed if other == group]
            if len(set(alike)) < 2:
                raise UserError(
                    f"class {group} in fold {fold} of {self.title} has one photo; download its splits again"
                )
            query, *references = (
                Shot(f"{self.photos}/{photo}.jpg", (photo, group))
                for photo in (chosen, *draw_references(alike, chosen, random, shots))
            )
            episodes.append(Episode(f"{fold}/{number:05d}", fold, str(group), tuple(references), query))
        return episodes

    def _listed(self, fold: int) -> list[tuple[str, int]]:
        """Read the photos of a fold, each with its class's number."""
        path = self._data / "splits" / "pascal" / "val" / f"fold{fold}.txt"
        pairs = [line.split("__") for line in path.read_text(encoding="utf-8").split()]
        if not pairs or any(len(pair) != 2 or not pair[1].isdecimal() for pair in pairs):
            raise UserError(f"{path} has lines unlike 2007_000033__01 (a photo and its class); download it again")
        return [(photo, int(group)) for photo, group in pairs]

    def read(self, shot: Shot) -> tuple[Image.Image, NDArray[np.bool_]]:
        """See `Benchmark.read`."""
        photo, group = shot.label
        return read_photo(self._data / shot.image, managed=False), self._labels(photo) == group

    def void(self, shot: Shot) -> NDArray[np.bool_]:
        """See `Benchmark.void`."""
        void: NDArray[np.bool_] = self._labels(shot.label[0]) == VOID
        return void
