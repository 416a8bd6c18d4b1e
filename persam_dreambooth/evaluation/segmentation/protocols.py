"""Benchmark protocol: episodes of references and a query, drawn once, saved and read back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.images import to_mask
from persam_dreambooth.photos.files import read_picture

EPISODES_NAME = "episodes.json"


@dataclass(frozen=True)
class Shot:
    """One photo and one of its masks.

    Attributes:
        image: path relative to the data folder, with forward slashes.
        label: key by which the benchmark finds the mask; JSON-serializable.
    """

    image: str
    label: tuple[str | int, ...]


@dataclass(frozen=True)
class Episode:
    """One task: segment in the query what the references' masks show.

    Attributes:
        name: unique within the benchmark; a relative path, used for the predicted mask's file.
        fold: the benchmark's fold that it belongs to.
        group: the object or class; intersections and unions are summed over its episodes.
        references: k photos in k-shot segmentation.
        query: another photo.
    """

    name: str
    fold: int
    group: str
    references: tuple[Shot, ...]
    query: Shot


class Benchmark(Protocol):
    """A data set on disk with its protocol; constructed from its folder, which is checked (UserError)."""

    name: str
    """Name on the command line."""
    title: str
    """The authors' spelling."""
    folds: int

    def draw(self, fold: int, random: Random, count: int | None, shots: int = 1) -> list[Episode]:
        """Return a fold's episodes: `count` of them, or the protocol's number if that is None.

        Each has `shots` references. Where they are drawn at random, a photo may be drawn twice, as in the published
        code.

        Raises:
            UserError: the folder lacks something that the protocol needs.
        """
        ...

    def read(self, shot: Shot) -> tuple[Image.Image, Image.Image | NDArray[np.bool_]]:
        """Read an RGB photo and its mask of the same size: the image file unchanged, or (H, W) bool.

        Raises:
            UserError: a file is missing or damaged.
        """
        ...

    def void(self, shot: Shot) -> NDArray[np.bool_] | None:
        """Return the pixels of a query that are not scored, (H, W) bool; None if all are."""
        return None


def require(data: Path, title: str, layout: str, *wanted: str) -> None:
    """Raise a UserError unless every wanted path, which may be a glob pattern, exists below the data folder."""
    missing = [pattern for pattern in wanted if not any(data.glob(pattern))]
    if missing:
        raise UserError(
            f"{data} is not laid out as {title}: no {', no '.join(missing)} in it; "
            f"give the folder that holds {layout} (docs/evaluation.md)"
        )


def read_checked(benchmark: Benchmark, shot: Shot) -> tuple[Image.Image, Image.Image | NDArray[np.bool_]]:
    """Call `Benchmark.read`; raise a UserError if photo and mask differ in size, which means a damaged data set."""
    image, mask = benchmark.read(shot)
    height, width = to_mask(mask).shape
    if image.size != (width, height):
        raise UserError(
            f"the mask {'/'.join(map(str, shot.label))} of {shot.image} is {width} x {height} pixels but the photo is "
            f"{image.width} x {image.height}; download {benchmark.title} again"
        )
    return image, mask


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Read a label map, (H, W) uint8.

    Raises:
        UserError: the file is missing or damaged, or has colours in place of numbers.
    """
    picture = read_picture(path)
    if picture.mode not in ("P", "L"):
        raise UserError(
            f"{path} has mode {picture.mode}, but label maps are palette or grey images (P or L); download it again"
        )
    return np.asarray(picture, dtype=np.uint8)


def thinned(episodes: list[Episode], random: Random, count: int | None) -> list[Episode]:
    """Return all episodes, or `count` of them drawn at random, in their original order."""
    if count is None or count >= len(episodes):
        return episodes
    chosen = random.sample(range(len(episodes)), count)
    return [episodes[number] for number in sorted(chosen)]


Photo = TypeVar("Photo")


def draw_references(photos: Sequence[Photo], query: Photo, random: Random, shots: int) -> list[Photo]:
    """Draw references from the photos other than the query, of which there is one or more; one may be drawn twice."""
    others = [photo for photo in photos if photo != query]
    return [random.choice(others) for _ in range(shots)]


def list_episodes(
    benchmark: Benchmark, path: Path, folds: Sequence[int], seed: int, count: int | None, shots: int = 1
) -> list[Episode]:
    """Read episodes from a file; if it does not exist, draw them and write it.

    Raises:
        UserError: the file is damaged or belongs to another benchmark, or there is no such fold.
    """
    unknown = [fold for fold in folds if not 0 <= fold < benchmark.folds]
    if unknown:
        raise UserError(f"{benchmark.title} has no fold {unknown[0]}; its folds are 0 to {benchmark.folds - 1}")
    if path.exists():
        return _read_episodes(benchmark, path)
    drawn: list[Episode] = []
    for fold in folds:
        # One generator per fold, so that a fold is the same whether it is drawn alone or with the others.
        drawn += benchmark.draw(fold, Random(f"{seed} {fold}"), count, shots)
    with replacing(path) as temporary:
        listed = [asdict(episode) for episode in drawn]
        text = json.dumps({"benchmark": benchmark.name, "episodes": listed}, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return drawn


def _read_episodes(benchmark: Benchmark, path: Path) -> list[Episode]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        name, episodes = stored["benchmark"], [_episode(entry) for entry in stored["episodes"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged or not a list of episodes; delete it to draw them again") from error
    if name != benchmark.name:
        raise UserError(f"{path} lists episodes of {name}, not of {benchmark.name}; choose another output folder")
    return episodes


def _episode(stored: dict[str, Any]) -> Episode:
    references = tuple(map(_shot, stored["references"]))
    return Episode(**stored | {"references": references, "query": _shot(stored["query"])})


def _shot(stored: dict[str, Any]) -> Shot:
    return Shot(stored["image"], tuple(stored["label"]))
