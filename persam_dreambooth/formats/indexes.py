"""The two layouts in which an index file pairs photos with masks: JSON Lines and COCO annotations."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from persam_dreambooth import json_lines
from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.formats.index_files import index_file, listed_file, read_json, read_json_lines
from persam_dreambooth.formats.layouts import Given
from persam_dreambooth.formats.masked_photos import (
    CAPTION,
    ListedPhoto,
    MaskedPhoto,
    clashes,
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
from persam_dreambooth.text_files import is_text

_Id = int | float | str


@dataclass(frozen=True)
class JsonLines:
    """One line per photo, with its path, its mask's path and its caption; paths are relative to the file.

    Attributes:
        name: of the file, with its folder.
        photo, mask, caption: the keys.
        turns: see `Folders`.
        photos, masks: names of the folders, beside the file.
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

    def add(self, masked: MaskedPhoto, folder: Path) -> dict[str, Any]:
        """Write photo and mask; return their line."""
        photo = write_photo(masked, folder / self.photos)
        mask = unused(folder / self.masks / f"{photo.stem}.png")
        files.write_mask(masked.levels, mask)
        where = (folder / self.name).parent
        paths = {key: path.relative_to(where).as_posix() for key, path in ((self.photo, photo), (self.mask, mask))}
        return paths | {self.caption: masked.caption or ""}

    def close(self, lines: list[dict[str, Any]], folder: Path) -> None:
        """Write the index."""
        with replacing(folder / self.name) as temporary:
            temporary.write_bytes(b"".join(map(json_lines.encode, lines)))

    def find(self, given: Given) -> tuple[list[ListedPhoto], list[str]]:
        """Read all lines."""
        path = index_file(given.folder, self.name)
        items, problems = [], []
        for number, line in read_json_lines(path):
            try:
                items.append(self._item(line, path.parent, given))
            except UserError as error:
                problems.append(f"line {number}: {error}")
        return items, problems + clashes(item.photo for item in items)

    def _item(self, line: Any, folder: Path, given: Given) -> ListedPhoto:
        """Read one line."""
        if not isinstance(line, dict) or not isinstance(line.get(self.photo), str):
            raise UserError(f"it has no {self.photo!r}; add it, or remove the line")
        photo = listed_file(line[self.photo], folder, given.folder, given.images)
        words, mask = line.get(self.caption), line.get(self.mask)
        if not isinstance(mask, str):
            raise UserError(f"{photo.name} has no mask; add its {self.mask!r}, or remove the line")
        if not isinstance(words, str | None) or not is_text(words or ""):
            raise UserError(f"the {self.caption!r} of {photo.name} is not text; write it as a string")
        levels = partial(
            read_levels, listed_file(mask, folder, given.folder, given.masks), "grey", None if self.turns else photo
        )
        return ListedPhoto(photo, levels, (words or "").strip() or None)


@dataclass(frozen=True)
class Coco:
    """One JSON file of images, annotations with compressed run-length masks, and one category.

    Attributes:
        name: of the file.
        photos: name of the folder.
    """

    name: str = "instances.json"
    photos: str = "images"
    masks: None = None

    def add(self, masked: MaskedPhoto, folder: Path) -> dict[str, Any]:
        """Write photo and caption; return the annotation, with its image entry inside."""
        tools = coco_tools()
        encoded = tools.encode(np.asfortranarray(masked.mask.astype(np.uint8)))
        photo = write_photo(masked, folder / self.photos)
        write_caption(masked.caption, photo)
        height, width = masked.mask.shape
        return {
            "image": {"file_name": photo.name, "width": width, "height": height},
            "segmentation": {"size": [height, width], "counts": encoded["counts"].decode("ascii")},
            "area": int(tools.area(encoded)),
            "bbox": tools.toBbox(encoded).tolist(),
        }

    def close(self, lines: list[dict[str, Any]], folder: Path) -> None:
        """Write the index."""
        images, annotations = [], []
        for number, line in enumerate(lines, start=1):
            images.append({"id": number, **line.pop("image")})
            annotations.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, **line})
        categories = [{"id": 1, "name": "subject", "supercategory": ""}]
        whole = {"images": images, "annotations": annotations, "categories": categories}
        files.write_json(whole, folder / self.name)

    def find(self, given: Given) -> tuple[list[ListedPhoto], list[str]]:
        """Read the images with their annotations."""
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
                photo = listed_file(image["file_name"], folder, given.images)
            except UserError as error:
                problems.append(str(error))
                continue
            if mine is None:
                problems.append(f"{photo.name} has no mask; annotate it, or remove it from the images")
                continue
            items.append(
                ListedPhoto(photo, partial(_levels, mine, image, photo), read_caption(photo.with_suffix(CAPTION)))
            )
        problems += [
            f"{mine[0].name} belongs to image {owner}, which is not listed; add it, or remove them"
            for owner, mine in masks.items()
        ]
        return items, problems + clashes(item.photo for item in items)


@dataclass(frozen=True)
class _Annotation:
    """One mask: its name for messages, its image and category, and the unchecked mask from the file."""

    name: str
    image: _Id
    category: _Id | None
    segmentation: Any


def _tables(path: Path) -> tuple[list[dict[str, Any]], list[_Annotation], dict[_Id, str]]:
    """Read images, annotations, and the category names by id.

    Raises:
        UserError: it is not a COCO file, or a list of the entries that lack required keys.
    """
    stored = read_json(path, "COCO file")
    if not isinstance(stored, dict) or not all(isinstance(stored.get(key), list) for key in ("images", "annotations")):
        raise UserError(f"{path} is not a COCO file of images and annotations; export it again")
    images, annotations, categories = stored["images"], stored["annotations"], stored.get("categories") or []
    problems = [
        *_problems(images, "image", {"id": _Id, "file_name": str}),
        *_problems(annotations, "annotation", {"image_id": _Id, "category_id": _Id | None}),
        *_problems(categories, "category", {"id": _Id, "name": str}),
    ]
    refuse(problems, f"{path} is not a COCO file")
    counted = Counter(image["id"] for image in images)
    refuse(
        [f"{count} images have the id {id}" for id, count in counted.items() if count > 1],
        f"{path} is not a COCO file",
    )
    named = [
        _Annotation(
            _name(entry, "annotation", number), entry["image_id"], entry.get("category_id"), entry.get("segmentation")
        )
        for number, entry in enumerate(annotations, start=1)
    ]
    return images, named, {category["id"]: category["name"] for category in categories}


def _problems(entries: Any, what: str, keys: dict[str, Any]) -> Iterator[str]:
    """Describe the problems in a list of entries, each of which needs keys with values of certain types."""
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
        if not isinstance(entry, dict):
            yield f"{what} number {number} is not an object; correct or remove it"
            continue
        unfit = [key for key, kind in keys.items() if not isinstance(entry.get(key), kind)]
        yield from (f"{_name(entry, what, number)} has no valid {key}; correct it" for key in unfit)


def _name(entry: dict[str, Any], what: str, number: int) -> str:
    """Name an entry by its id if it has one, else by its place in the list."""
    known = entry.get("id")
    return f"{what} {str(known)[:40]}" if isinstance(known, _Id) else f"{what} number {number}"


def _category(annotations: list[_Annotation], names: dict[_Id, str], wanted: str | None, path: Path) -> _Id | None:
    """Return the id of the subject's category."""
    used = {annotation.category for annotation in annotations}
    titles = {id: str(id) if id is None else names.get(id, str(id)) for id in used}
    fitting = [id for id in used if wanted is None or titles[id] == wanted]
    if len(fitting) > 1 or (wanted is not None and not fitting):
        known = ", ".join(sorted(titles.values()))
        raise UserError(f"{path} has masks of {known}; choose the subject with --category")
    return fitting[0] if fitting else None


def _levels(annotations: list[_Annotation], image: dict[str, Any], photo: Path) -> Image.Image:
    """Decode the union of a photo's masks as an image of mode L."""
    width, height = _size(image, photo)
    mask = np.zeros((height, width), bool)
    for annotation in annotations:
        try:
            mask |= read_segmentation(annotation.segmentation, height, width)
        except UserError as error:
            raise UserError(f"{annotation.name}, of {photo.name}: {error}") from error
    return Image.fromarray(mask).convert("L")


def _size(image: dict[str, Any], photo: Path) -> tuple[int, int]:
    """Return the (width, height) in a photo's entry, which must be the file's size, as stored or upright."""
    with open_picture(photo, "photo", decode=False) as picture:
        size = picture.size
    claimed = image.get("width", size[0]), image.get("height", size[1])
    if claimed not in (size, size[::-1]):
        words = [str(edge)[:20] for edge in claimed]
        raise UserError(
            f"{photo.name} is {size[0]} x {size[1]} pixels, its entry says {words[0]} x {words[1]}; export it again"
        )
    return int(claimed[0]), int(claimed[1])
