"""The two ways in which an index file says which mask is whose: lines of JSON, and COCO's annotations."""

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.coco import coco_tools, union_of
from persam_dreambooth.photos.trade.layouts import Given
from persam_dreambooth.photos.trade.samples import (
    CAPTION,
    Item,
    Sample,
    read_caption,
    read_levels,
    write_caption,
    write_photo,
)
from persam_dreambooth.photos.trade.strangers import clashes
from persam_dreambooth.replacing import replacing


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
        mask = folder / self.masks / f"{photo.stem}.png"
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
        for number, line in enumerate(_lines(path), start=1):
            if not isinstance(line, dict) or not isinstance(line.get(self.photo), str):
                problems.append(f"line {number} has no {self.photo!r}")
                continue
            photo, mask, words = path.parent / line[self.photo], line.get(self.mask), line.get(self.caption)
            if not photo.is_file():
                problems.append(f"{photo} is not there")
            elif not isinstance(mask, str):
                problems.append(f"{photo.name} has no mask")
            elif not (path.parent / mask).is_file():
                problems.append(f"{photo.name} has no mask: {path.parent / mask} is not there")
            else:
                levels = partial(read_levels, path.parent / mask, "grey", None if self.turns else photo)
                caption = words.strip() or None if isinstance(words, str) else None
                items.append(Item(photo, levels, caption))
        return items, problems + clashes(item.photo for item in items)


def index_file(folder: Path, name: str) -> Path:
    """The index in a folder, where it stands there or one deeper, or the very file that was given.

    Raises:
        UserError: there is none.
    """
    candidates = [folder / name, folder / Path(name).name, folder]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise UserError(f"{folder} has no {Path(name).name}; give the folder that holds it, or the file itself")
    return path


def _lines(path: Path) -> list[Any]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"{path} is no file of JSON lines ({error}); export it again") from error


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
            if annotation.get("category_id") == wanted:
                masks[annotation.get("image_id")].append(annotation.get("segmentation"))
        items, problems = [], []
        for image in images:
            photo, segmentations = folder / str(image.get("file_name")), masks.pop(image.get("id"), None)
            if not photo.is_file():
                problems.append(f"{photo} is not there")
            elif segmentations is None:
                problems.append(f"{photo.name} has no mask")
            else:
                levels = partial(_levels, segmentations, image, photo.name)
                items.append(Item(photo, levels, read_caption(photo.with_suffix(CAPTION))))
        problems += [f"a mask is of image {owner}, which is not listed" for owner in masks]
        return items, problems + clashes(item.photo for item in items)


def _tables(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[Any, str]]:
    """Images, annotations, and the categories' names by their ids."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        categories = {one["id"]: str(one["name"]) for one in stored.get("categories", [])}
        images, annotations = list(stored["images"]), list(stored["annotations"])
        if not all(isinstance(one, dict) for one in (*images, *annotations)):
            raise TypeError("an entry is no object")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is no COCO file of images and annotations ({reason}); export it again") from error
    return images, annotations, categories


def _category(annotations: list[dict[str, Any]], names: dict[Any, str], wanted: str | None, path: Path) -> Any:
    """The id of the category that is the subject."""
    used = {one.get("category_id") for one in annotations}
    fitting = [one for one in used if wanted is None or names.get(one) == wanted]
    if len(fitting) > 1 or (wanted is not None and not fitting):
        known = ", ".join(sorted(names.get(one, str(one)) for one in used))
        raise UserError(f"{path} has masks of {known}; say which is the subject with --category")
    return fitting[0] if fitting else None


def _levels(segmentations: list[Any], image: dict[str, Any], name: str) -> Image.Image:
    try:
        mask = union_of(segmentations, int(image["height"]), int(image["width"]))
    except UserError as error:
        raise UserError(f"the mask of {name}: {error}") from error
    except Exception as error:  # pycocotools answers damage with several kinds of exception
        raise UserError(f"the mask of {name} cannot be decoded ({type(error).__name__}: {error})") from error
    return Image.fromarray(mask).convert("L")
