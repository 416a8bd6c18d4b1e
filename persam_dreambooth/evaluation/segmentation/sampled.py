"""Benchmarks with randomly drawn episodes, in the layout of Matcher (Liu et al. 2024): LVIS, PASCAL, PACO."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.evaluation.segmentation.annotations import read_annotations
from persam_dreambooth.evaluation.segmentation.protocols import (
    Benchmark,
    Episode,
    Photo,
    Shot,
    draw_references,
    require,
)
from persam_dreambooth.photos.coco import coco_tools, union_of
from persam_dreambooth.photos.files import read_photo
from persam_dreambooth.segmentation.types import Box

TRIES = 1000
"""Maximum number of draws of a photo for a part, since not every listed photo shows it."""


class Lvis92(Benchmark):
    """LVIS-92i: 10 folds of the classes with at least two photos; all instances of a class form one mask.

    Args:
        data: the folder with `lvis_val.pkl` ({class: {photo: {"annotations": [{"segmentation"}]}}}) and
            the COCO 2017 photos in `coco/`.

    Raises:
        UserError: another layout, or no pycocotools.
    """

    name, title, folds = "lvis92", "LVIS-92i", 10
    episodes = 2300

    def __init__(self, data: Path) -> None:
        coco_tools()
        require(data, self.title, "lvis_val.pkl and coco/train2017, coco/val2017", "lvis_val.pkl", "coco/*2017")
        self._data, self._by_class = data, read_annotations(data / "lvis_val.pkl")

    def draw(self, fold: int, random: Random, count: int | None, shots: int = 1) -> list[Episode]:
        """See `Benchmark.draw`: the fold's classes in turn, query and references at random."""
        kept = [group for group, photos in self._by_class.items() if len(photos) > 1]
        groups = kept[fold : len(kept) // self.folds * self.folds : self.folds]
        _refuse_no_class(self.title, fold, groups)
        episodes = []
        for number in range(self.episodes if count is None else count):
            group = groups[number % len(groups)]
            photos = list(self._by_class[group])
            chosen = random.choice(photos)
            query, *references = (
                Shot(f"coco/{photo}", (_plain(group), photo))
                for photo in (chosen, *draw_references(photos, chosen, random, shots))
            )
            episodes.append(Episode(f"{fold}/{number:05d}", fold, str(group), tuple(references), query))
        return episodes

    def read(self, shot: Shot) -> tuple[Image.Image, NDArray[np.bool_]]:
        """See `Benchmark.read`."""
        group, photo = shot.label
        image = read_photo(self._data / shot.image, managed=False)
        annotations = _found(self._by_class, group, photo)["annotations"]
        masks = [annotation["segmentation"] for annotation in annotations]
        return image, union_of(masks, image.height, image.width)


class PascalPart(Benchmark):
    """PASCAL-Part: 4 folds (animals, indoor, person, vehicles); a part of one object, cropped to the object's box.

    Args:
        data: the folder with `VOCdevkit/VOC2010`, which has `JPEGImages`,
            `Annotations_Part_json_merged_part_classes` and `all_obj_part_to_image.json`.

    Raises:
        UserError: another layout, or no pycocotools.
    """

    name, title = "pascal-part", "PASCAL-Part"
    categories = ("animals", "indoor", "person", "vehicles")
    folds = len(categories)
    most_episodes = 2500
    left_out = ("aeroplane", "TAIL")
    """The one class that the protocol excludes."""

    def __init__(self, data: Path) -> None:
        coco_tools()
        root, annotations = "VOCdevkit/VOC2010", "Annotations_Part_json_merged_part_classes"
        wanted = [f"{root}/all_obj_part_to_image.json", f"{root}/JPEGImages", f"{root}/{annotations}"]
        require(data, self.title, f"{root} with JPEGImages, {annotations} and all_obj_part_to_image.json", *wanted)
        self._data, self._index = data, _read_json(data / wanted[0])
        self._annotation = lru_cache(1024)(lambda name: _read_json(data / wanted[2] / f"{name}.json"))
        self._photos = wanted[1]

    def draw(self, fold: int, random: Random, count: int | None, shots: int = 1) -> list[Episode]:
        """See `Benchmark.draw`: the fold's parts in turn; photos, and objects in them, at random."""
        objects = _found(self._index, self.categories[fold], "object")
        lists = {(name, part): ids for name, entry in objects.items() for part, ids in entry["part"].items()}
        groups = [
            group for group, ids in lists.items() if ids["train"] and len(ids["val"]) > 1 and group != self.left_out
        ]
        _refuse_no_class(self.title, fold, groups)
        if count is None:
            count = min(self.most_episodes, sum(len(ids["val"]) for ids in lists.values()))
        episodes = []
        for number in range(count):
            group = groups[number % len(groups)]
            draw = self._shots_of(group)
            what = f"{'+'.join(group)} of {self.title}"
            query, *references = _query_and_references(draw, lists[group]["val"], random, shots, what)
            episodes.append(Episode(f"{fold}/{number:05d}", fold, "+".join(group), tuple(references), query))
        return episodes

    def _shots_of(self, group: tuple[str, str]) -> Callable[[str, Random], Shot | None]:
        """Return a function that draws an object of that name in a photo, None if that object lacks the part."""
        name, part = group

        def draw(photo: str, random: Random) -> Shot | None:
            objects = self._annotation(photo)["object"]
            indices = [index for index, candidate in enumerate(objects) if candidate["name"] == name]
            if not indices:
                return None
            index = random.choice(indices)
            has_part = any(piece["name"] == part for piece in objects[index]["parts"])
            left, top, right, bottom = self._box(objects[index])
            if not has_part or left >= right or top >= bottom:
                return None
            return Shot(f"{self._photos}/{photo}.jpg", (photo, index, part))

        return draw

    def read(self, shot: Shot) -> tuple[Image.Image, NDArray[np.bool_]]:
        """See `Benchmark.read`: both cropped to the object's box."""
        photo, index, part = shot.label
        image = read_photo(self._data / shot.image, managed=False)
        owner = self._annotation(photo)["object"][index]
        masks = [mask for piece in owner["parts"] if piece["name"] == part for mask in piece["mask"]]
        return _cropped(image, union_of(masks, image.height, image.width), self._box(owner))

    @staticmethod
    def _box(owner: dict[str, Any]) -> Box:
        left, top, right, bottom = (int(value) for value in owner["bndbox"].values())
        return left, top, right, bottom


class PacoPart(Benchmark):
    """PACO-Part: 448 classes in 4 folds; a part of one object, cropped to the object's box.

    Args:
        data: the folder with `paco/paco_part_train.pkl` and `paco/paco_part_val.pkl`, each {"cid2img": {class:
            [{photo id: photo}]}, "img2anno": {photo id: [{"category_id", "obj_ann_id", "obj_bbox",
            "segmentation"}]}}, and the COCO 2017 photos in `coco/`.

    Raises:
        UserError: another layout, or no pycocotools.
    """

    name, title, folds = "paco-part", "PACO-Part", 4
    episodes = 2500

    def __init__(self, data: Path) -> None:
        coco_tools()
        train, val = "paco/paco_part_train.pkl", "paco/paco_part_val.pkl"
        require(data, self.title, f"{train}, {val} and coco/train2017, coco/val2017", train, val, "coco/*2017")
        self._data = data
        self._order = list(_found(read_annotations(data / train), "cid2img"))
        stored = read_annotations(data / val)
        # {class: {photo id: photo}}; the lists contain some photos twice.
        self._by_class = {
            group: {_plain(key): photo for entry in entries for key, photo in entry.items()}
            for group, entries in _found(stored, "cid2img").items()
        }
        self._annotations = {_plain(key): parts for key, parts in _found(stored, "img2anno").items()}

    def draw(self, fold: int, random: Random, count: int | None, shots: int = 1) -> list[Episode]:
        """See `Benchmark.draw`: class, photos, and objects in them, at random."""
        ordered = self._order[fold : len(self._order) // self.folds * self.folds : self.folds]
        groups = [group for group in ordered if len(self._by_class.get(group, ())) > 1]
        _refuse_no_class(self.title, fold, groups)
        episodes = []
        for number in range(self.episodes if count is None else count):
            group = random.choice(groups)
            draw = self._shots_of(group)
            photos, what = list(self._by_class[group]), f"{group} of {self.title}"
            query, *references = _query_and_references(draw, photos, random, shots, what)
            episodes.append(Episode(f"{fold}/{number:05d}", fold, str(group), tuple(references), query))
        return episodes

    def _shots_of(self, group: Any) -> Callable[[Any, Random], Shot | None]:
        """Return a function that draws an object with that part in a photo."""

        def draw(photo: Any, random: Random) -> Shot | None:
            owners = {part["obj_ann_id"]: part["obj_bbox"] for part in self._of(photo, group)}
            if not owners:
                return None
            owner = random.choice(list(owners))
            _, _, width, height = owners[owner]
            if int(width) < 1 or int(height) < 1:
                return None
            image = "/".join(self._by_class[group][photo].split("/")[-2:])
            return Shot(f"coco/{image}", (photo, _plain(group), _plain(owner)))

        return draw

    def _of(self, photo: Any, group: Any) -> list[dict[str, Any]]:
        return [part for part in _found(self._annotations, photo) if part["category_id"] == group]

    def read(self, shot: Shot) -> tuple[Image.Image, NDArray[np.bool_]]:
        """See `Benchmark.read`: both cropped to the object's box."""
        photo, group, owner = shot.label
        image = read_photo(self._data / shot.image, managed=False)
        parts = [part for part in self._of(photo, group) if part["obj_ann_id"] == owner]
        if not parts:
            raise UserError(
                f"no part {group} of object {owner} in {shot.image}: the episodes are of another data set; choose "
                "another output folder"
            )
        left, top, width, height = parts[0]["obj_bbox"]
        box = int(left), int(top), int(left + width), int(top + height)
        return _cropped(image, union_of([part["segmentation"] for part in parts], image.height, image.width), box)


def _query_and_references(
    draw: Callable[[Photo, Random], Shot | None], photos: Sequence[Photo], random: Random, shots: int, what: str
) -> list[Shot]:
    """Draw a query, then references from other photos; photos whose drawn object is unsuitable are redrawn."""
    found: list[Shot] = []
    query = None
    for _ in range(TRIES * shots):
        photo = random.choice(photos)
        shot = None if found and photo == query else draw(photo, random)
        if shot is not None:
            query = query if found else photo
            found.append(shot)
        if len(found) == 1 + shots:
            return found
    raise UserError(f"no two photos show {what}; the annotations are incomplete, download them again")


def _refuse_no_class(title: str, fold: int, groups: Sequence[object]) -> None:
    if not groups:
        raise UserError(f"fold {fold} of {title} has no class with two photos; download the data set again")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the annotations {path} cannot be read ({first_line(error)}); download them again") from error


def _found(stored: Any, *keys: Any) -> Any:
    """Return a nested value, or raise a UserError that names the missing key."""
    for key in keys:
        if not isinstance(stored, dict) or key not in stored:
            raise UserError(
                f"the annotations have no {key!r}: they are of another data set or version; download the right ones"
            )
        stored = stored[key]
    return stored


def _plain(key: Any) -> Any:
    """Convert a numpy number to a Python number, for JSON."""
    return key.item() if isinstance(key, np.generic) else key


def _cropped(image: Image.Image, mask: NDArray[np.bool_], box: Box) -> tuple[Image.Image, NDArray[np.bool_]]:
    """Crop a photo and its (H, W) bool mask to a box, which may extend beyond the photo."""
    left, top, right, bottom = max(0, box[0]), max(0, box[1]), min(image.width, box[2]), min(image.height, box[3])
    return image.crop((left, top, right, bottom)), mask[top:bottom, left:right]
