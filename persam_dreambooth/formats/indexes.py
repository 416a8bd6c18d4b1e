"""The two ways in which an index file says which mask is whose: lines of JSON, and COCO's annotations."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.formats.foreign_files import clashes
from persam_dreambooth.formats.index_files import index_file, listed, read_json, read_json_lines
from persam_dreambooth.formats.layouts import Given
from persam_dreambooth.formats.samples import (
    CAPTION,
    Item,
    Sample,
    read_caption,
    read_levels,
    refuse,
    unused,
    write_caption,
    write_photo,
)
from persam_dreambooth.image_files import open_picture
from persam_dreambooth.photos import files
from persam_dreambooth.photos.coco import coco_tools, read_segmentation
from persam_dreambooth.photos.names import is_text

_Id = int | float | str


@dataclass(frozen=True)
class JsonLines:
    """One line a photo: its path, its mask's and its words, the paths relative to the file.

    Attributes:
        name: the file's, with the folder that it lies in.
        photo, mask, caption: the keys.
        turns: as of `Folders`.
        photos, masks: the folders' names.
    """

    name: str
    photo: str
    mask: str
    caption: str = "text"
    turns: bool = False

    @property
    def photos(self) -> str:
        """The folder of the photos."""
        return (Path(self.name).parent / "images").as_posix()

    @property
    def masks(self) -> str:
        """The folder of the masks."""
        return (Path(self.name).parent / "masks").as_posix()

    def add(self, sample: Sample, folder: Path) -> dict[str, Any]:
        """Write photo and mask."""
        photo = write_photo(sample, folder / self.photos)
        mask = unused(folder / self.masks / f"{photo.stem}.png")
        files.write_mask(sample.mask, mask)
        where = (folder / self.name).parent
        paths = {key: path.relative_to(where).as_posix() for key, path in ((self.photo, photo), (self.mask, mask))}
        return paths | {self.caption: sample.caption or ""}

    def close(self, lines: list[dict[str, Any]], folder: Path) -> None:
        """Write the file."""
        with replacing(folder / self.name) as temporary:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            temporary.write_text(text, encoding="utf-8")

    def find(self, given: Given) -> tuple[list[Item], list[str]]:
        """What the lines say."""
        path = index_file(given.folder, self.name)
        items, problems = [], []
        for number, line in enumerate(read_json_lines(path), start=1):
            try:
                items.append(self._item(line, path.parent, given))
            except UserError as error:
                problems.append(f"line {number}: {error}")
        return items, problems + clashes(item.photo for item in items)

    def _item(self, line: Any, folder: Path, given: Given) -> Item:
        """What one line says."""
        if not isinstance(line, dict) or not isinstance(line.get(self.photo), str):
            raise UserError(f"it has no {self.photo!r}")
        photo = listed(line[self.photo], folder, given.folder, given.images)
        words, mask = line.get(self.caption), line.get(self.mask)
        if not isinstance(mask, str):
            raise UserError(f"{photo.name} has no mask")
        if not isinstance(words, str | None) or not is_text(words or ""):
            raise UserError(f"the {self.caption!r} of {photo.name} is no text")
        levels = partial(
            read_levels, listed(mask, folder, given.folder, given.masks), "grey", None if self.turns else photo
        )
        return Item(photo, levels, (words or "").strip() or None)


@dataclass(frozen=True)
class Coco:
    """One JSON file of images, annotations with compressed run-length masks, and one category.

    Attributes:
        name: the file's.
        photos: the folder's name.
    """

    name: str = "instances.json"
    photos: str = "images"
    masks: None = None

    def add(self, sample: Sample, folder: Path) -> dict[str, Any]:
        """Write photo and caption; the line is the annotation with its image in it."""
        tools = coco_tools()
        encoded = tools.encode(np.asfortranarray(sample.mask.astype(np.uint8)))
        photo = write_photo(sample, folder / self.photos)
        write_caption(sample.caption, photo)
        height, width = sample.mask.shape
        return {
            "image": {"file_name": photo.name, "width": width, "height": height},
            "segmentation": {"size": [height, width], "counts": encoded["counts"].decode("ascii")},
            "area": int(tools.area(encoded)),
            "bbox": tools.toBbox(encoded).tolist(),
        }

    def close(self, lines: list[dict[str, Any]], folder: Path) -> None:
        """Write the file."""
        images, annotations = [], []
        for number, line in enumerate(lines, start=1):
            images.append({"id": number, **line.pop("image")})
            annotations.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, **line})
        categories = [{"id": 1, "name": "subject", "supercategory": ""}]
        whole = {"images": images, "annotations": annotations, "categories": categories}
        files.write_json(whole, folder / self.name)

    def find(self, given: Given) -> tuple[list[Item], list[str]]:
        """The images with what is annotated in them."""
        coco_tools()
        path = index_file(given.folder, self.name)
        images, annotations, categories = _tables(path)
        beside = path.parent / self.photos
        folder = given.images or (beside if beside.is_dir() else path.parent)
        wanted = _category(annotations, categories, given.category, path)
        masks = defaultdict(list)
        for annotation in annotations:
            if annotation.category == wanted:
                masks[annotation.image].append(annotation)
        items, problems = [], []
        for image in images:
            mine = masks.pop(image["id"], None)
            try:
                photo = listed(image["file_name"], folder, given.images)
            except UserError as error:
                problems.append(str(error))
                continue
            if mine is None:
                problems.append(f"{photo.name} has no mask")
                continue
            items.append(Item(photo, partial(_levels, mine, image, photo), read_caption(photo.with_suffix(CAPTION))))
        problems += [f"{mine[0].name} is of image {owner}, which is not listed" for owner, mine in masks.items()]
        return items, problems + clashes(item.photo for item in items)


@dataclass(frozen=True)
class _Annotation:
    """One mask: its name for people, whose it is, and the mask as the file has it, unchecked."""

    name: str
    image: _Id
    category: _Id | None
    segmentation: Any


def _tables(path: Path) -> tuple[list[dict[str, Any]], list[_Annotation], dict[_Id, str]]:
    """Images, annotations, and the categories' names by their ids.

    Raises:
        UserError: the file is none of COCO's, or entries lack what is needed, all of them listed.
    """
    stored = read_json(path, "COCO file")
    if not isinstance(stored, dict) or not all(isinstance(stored.get(key), list) for key in ("images", "annotations")):
        raise UserError(f"{path} is no COCO file of images and annotations; export it again")
    images, annotations, categories = stored["images"], stored["annotations"], stored.get("categories") or []
    problems = [
        *_problems(images, "image", {"id": _Id, "file_name": str}),
        *_problems(annotations, "annotation", {"image_id": _Id, "category_id": _Id | None}),
        *_problems(categories, "category", {"id": _Id, "name": str}),
    ]
    refuse(problems, f"{path} is no COCO file")
    counted = Counter(image["id"] for image in images)
    refuse(
        [f"{count} images have the id {id}" for id, count in counted.items() if count > 1], f"{path} is no COCO file"
    )
    named = [
        _Annotation(_name(one, "annotation", number), one["image_id"], one.get("category_id"), one.get("segmentation"))
        for number, one in enumerate(annotations, start=1)
    ]
    return images, named, {one["id"]: one["name"] for one in categories}


def _problems(entries: Any, what: str, keys: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a list of entries, each of which needs values of certain types."""
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
        if not isinstance(entry, dict):
            yield f"{what} number {number} is no object"
            continue
        unfit = [key for key, kind in keys.items() if not isinstance(entry.get(key), kind)]
        yield from (f"{_name(entry, what, number)} has no {key} that can be read" for key in unfit)


def _name(entry: dict[str, Any], what: str, number: int) -> str:
    """By its id, as far as it has one, else by its place in the list."""
    known = entry.get("id")
    return f"{what} {str(known)[:40]}" if isinstance(known, _Id) else f"{what} number {number}"


def _category(annotations: list[_Annotation], names: dict[_Id, str], wanted: str | None, path: Path) -> _Id | None:
    """The id of the category that is the subject."""
    used = {one.category for one in annotations}
    called = {one: str(one) if one is None else names.get(one, str(one)) for one in used}
    fitting = [one for one in used if wanted is None or called[one] == wanted]
    if len(fitting) > 1 or (wanted is not None and not fitting):
        known = ", ".join(sorted(called.values()))
        raise UserError(f"{path} has masks of {known}; say which is the subject with --category")
    return fitting[0] if fitting else None


def _levels(annotations: list[_Annotation], image: dict[str, Any], photo: Path) -> Image.Image:
    """The union of a photo's masks, as an image of mode L."""
    width, height = _size(image, photo)
    mask = np.zeros((height, width), bool)
    for annotation in annotations:
        try:
            mask |= read_segmentation(annotation.segmentation, height, width)
        except UserError as error:
            raise UserError(f"{annotation.name}, of {photo.name}: {error}") from error
    return Image.fromarray(mask).convert("L")


def _size(image: dict[str, Any], photo: Path) -> tuple[int, int]:
    """(width, height) that an entry gives a photo, which must be the file's, stored or upright."""
    with open_picture(photo, "photo", decode=False) as picture:
        size = picture.size
    claimed = image.get("width", size[0]), image.get("height", size[1])
    if claimed not in (size, size[::-1]):
        words = [str(edge)[:20] for edge in claimed]
        raise UserError(f"{photo.name} is {size[0]} x {size[1]} pixels, its entry says {words[0]} x {words[1]}")
    return int(claimed[0]), int(claimed[1])
