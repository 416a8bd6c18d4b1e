"""One photo with its mask: as it is handed to a convention, and as a convention finds it in a trainer's folder."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.image_files import open_picture
from persam_dreambooth.images import TRANSPOSITIONS, orientation, to_rgb, to_srgb
from persam_dreambooth.photos import files

COMMON_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Photo files that every trainer here reads."""
COMMON_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
"""Pillow's names of what is in them; phones write MPO where the suffix says JPEG."""
CAPTION = ".txt"
LISTED = 50
"""At most so many problems are named in a message."""

Channel = Literal["red", "grey"]
"""What a trainer reads of a mask that has colours."""


@dataclass(frozen=True)
class Sample:
    """One photo to be written.

    Attributes:
        photo: its file.
        image: what is in it: upright 8-bit RGB.
        mask: (H, W) bool of that image's size, True where the subject is.
        caption: words, or None.
    """

    photo: Path
    image: Image.Image
    mask: NDArray[np.bool_]
    caption: str | None


@dataclass(frozen=True)
class Item:
    """One photo that a trainer's folder pairs with a mask.

    Attributes:
        photo: its file.
        read_levels: the mask as an upright image of mode L, white where the subject is; may raise a UserError.
        caption: words, or None.
        read_photo: the upright 8-bit RGB image; None where the file shows it as it is.
    """

    photo: Path
    read_levels: Callable[[], Image.Image]
    caption: str | None = None
    read_photo: Callable[[], Image.Image] | None = None


def refuse(problems: Sequence[str], what: str) -> None:
    """Raise a UserError that lists the problems, when there are any: each once, and of very many the first."""
    if problems:
        different = list(dict.fromkeys(problems))
        more = f"; and {len(different) - LISTED} more" if len(different) > LISTED else ""
        raise UserError(f"{what}: {'; '.join(different[:LISTED])}{more}; nothing was written")


def unused(path: Path) -> Path:
    """The same path, at which nothing lies.

    Raises:
        UserError: something does: where Dog.jpg and dog.jpg are one file, or two spellings of an accented name.
    """
    if os.path.lexists(path):
        raise UserError(f"{path.name} would replace a file that this file system takes for the same; rename the photo")
    return path


def read_caption(path: Path) -> str | None:
    """The words in a caption file; None where there are none, or no file.

    Raises:
        UserError: it is no UTF-8 text.
    """
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8-sig").strip() or None
    except ValueError as error:
        raise UserError(f"the caption {path} cannot be read ({error}); write it as UTF-8 text") from error


def write_caption(caption: str | None, photo: Path) -> None:
    """Write words beside a photo; no words, no file, since trainers stop at an empty one."""
    if caption is not None:
        with replacing(unused(photo.with_suffix(CAPTION))) as temporary:
            temporary.write_text(caption + "\n", encoding="utf-8")


def write_photo(sample: Sample, folder: Path, as_png: bool = False) -> Path:
    """Write a photo such that every trainer sees the same picture in it, whatever it knows of EXIF.

    The bytes are kept where the file is upright and opaque, in a format that all read; otherwise it
    becomes an upright RGB PNG of the same stem.

    Args:
        as_png: make a PNG of it in any case.
    """
    suffix = sample.photo.suffix.lower()
    if not (suffix in COMMON_SUFFIXES and shows_itself(sample.photo)) or (as_png and suffix != ".png"):
        target = unused(folder / f"{sample.photo.stem}.png")
        files.write_picture(sample.image, target)
        return target
    target = unused(folder / f"{sample.photo.stem}{suffix}")
    with replacing(target) as temporary:
        shutil.copyfile(sample.photo, temporary)
    return target


def shows_itself(photo: Path) -> bool:
    """Whether the stored pixels are the upright, opaque 8-bit picture, in a format that every trainer reads."""
    with open_picture(photo, "photo", decode=False) as image:
        common = image.format in COMMON_FORMATS and image.mode in ("L", "RGB")
        return common and not image.has_transparency_data and to_srgb(image) is image and orientation(image) is None


def read_levels(mask: Path, channel: Channel, lies_on: Path | None = None) -> Image.Image:
    """A mask file as trainers read it, upright, mode L.

    Args:
        lies_on: the photo whose stored pixels, turned or not, it lies on; None where it is turned by its own EXIF.

    Raises:
        UserError: it cannot be decoded.
    """
    picture = files.read_drawn_mask(mask)
    turn = orientation(picture) if lies_on is None else _stored_orientation(lies_on)
    if picture.mode.startswith(("I", "F")):
        picture = to_rgb(picture)  # 16 bit and float, which Pillow's own conversion would clip
    colours = picture.convert("RGB")
    levels = colours.getchannel("R") if channel == "red" else colours.convert("L")
    return levels if turn is None else levels.transpose(TRANSPOSITIONS[turn])


def _stored_orientation(photo: Path) -> int | None:
    """A photo's EXIF orientation, without decoding it."""
    with open_picture(photo, "photo", decode=False) as image:
        return orientation(image)
