"""Benchmarks with masks in image files: PerSeg and FSS-1000."""

from pathlib import Path
from random import Random

from PIL import Image

from persam_dreambooth.errors import UserError
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
"""File stem of PerSeg's reference photos; with several shots, those after it are references too. None is scored."""


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


def _read_files(data: Path, shot: Shot) -> tuple[Image.Image, Image.Image]:
    return read_photo(data / shot.image, managed=False), read_picture(data / str(shot.label[0]))
