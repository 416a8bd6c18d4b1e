"""One photo with its mask, as a layout writes it to or finds it in a trainer's folder; checks of the other files."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.image_files import open_picture
from persam_dreambooth.images import TRANSPOSITIONS, above_half, orientation, to_rgb, to_srgb
from persam_dreambooth.photos import files

COMMON_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Suffixes of photos that every trainer here reads."""
COMMON_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
"""Pillow's names of their formats; phones write MPO into files with a JPEG suffix."""
CAPTION = ".txt"
LISTED = 50
"""Maximum number of problems that one message lists."""

Channel = Literal["red", "grey"]
"""The channel that a trainer reads of a coloured mask."""


@dataclass(frozen=True)
class MaskedPhoto:
    """One photo to write.

    Attributes:
        photo: its file.
        image: upright 8-bit RGB.
        levels: (H, W) uint8 of the image's size, the mask's weights: 255 on the subject, 0 elsewhere, grey between.
        caption: text, or None.
    """

    photo: Path
    image: Image.Image
    levels: NDArray[np.uint8]
    caption: str | None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool, True where the levels exceed half of the brightest."""
        return above_half(self.levels)


@dataclass(frozen=True)
class ListedPhoto:
    """One photo that a trainer's folder pairs with a mask.

    Attributes:
        photo: its file.
        read_levels: reads the mask as an upright image of mode L, white where the subject is; may raise a UserError.
        caption: text, or None.
        read_photo: reads the photo as upright 8-bit RGB; None if the file can be used as it is.
    """

    photo: Path
    read_levels: Callable[[], Image.Image]
    caption: str | None = None
    read_photo: Callable[[], Image.Image] | None = None


def refuse(problems: Sequence[str], what: str) -> None:
    """Raise a UserError that lists the problems, if there are any: each once, and at most the first 50."""
    if problems:
        different = list(dict.fromkeys(problems))
        more = f"; and {len(different) - LISTED} more" if len(different) > LISTED else ""
        raise UserError(f"{what}: {'; '.join(different[:LISTED])}{more}; nothing was written")


def unused(path: Path) -> Path:
    """Return the path, after checking that nothing exists there.

    Raises:
        UserError: something does: on some file systems Dog.jpg and dog.jpg, or two spellings of an accented name,
            are one file.
    """
    if os.path.lexists(path):
        raise UserError(
            f"{path.name} would replace a file that has the same name to this file system; rename the photo"
        )
    return path


def read_caption(path: Path) -> str | None:
    """Read a caption file; None if it is empty or missing.

    Raises:
        UserError: it is not UTF-8 text.
    """
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8-sig").strip() or None
    except ValueError as error:
        raise UserError(f"the caption {path} cannot be read ({error}); write it as UTF-8 text") from error


def write_caption(caption: str | None, photo: Path) -> None:
    """Write a caption beside a photo; no file if there is none, since trainers fail on an empty one."""
    if caption is not None:
        with replacing(unused(photo.with_suffix(CAPTION))) as temporary:
            temporary.write_text(caption + "\n", encoding="utf-8")


def write_photo(masked: MaskedPhoto, folder: Path, as_png: bool = False) -> Path:
    """Write a photo so that every trainer sees the same picture, whether or not it applies EXIF.

    The bytes are kept if the file is upright and opaque, in a format that all trainers read; otherwise it
    becomes an upright RGB PNG of the same stem.

    Args:
        as_png: write a PNG in any case.
    """
    suffix = masked.photo.suffix.lower()
    if not (suffix in COMMON_SUFFIXES and shows_itself(masked.photo)) or (as_png and suffix != ".png"):
        target = unused(folder / f"{masked.photo.stem}.png")
        files.write_picture(masked.image, target)
        return target
    target = unused(folder / f"{masked.photo.stem}{suffix}")
    with replacing(target) as temporary:
        shutil.copyfile(masked.photo, temporary)
    return target


def shows_itself(photo: Path) -> bool:
    """Return whether the stored pixels are upright, opaque and 8-bit, in a format that every trainer reads."""
    with open_picture(photo, "photo", decode=False) as image:
        common = image.format in COMMON_FORMATS and image.mode in ("L", "RGB")
        return common and not image.has_transparency_data and to_srgb(image) is image and orientation(image) is None


def read_levels(mask: Path, channel: Channel, lies_on: Path | None = None) -> Image.Image:
    """Read a mask file as trainers do: upright, mode L.

    Args:
        lies_on: the photo on whose stored pixels, rotated or not, the mask lies; None if its own EXIF applies.

    Raises:
        UserError: it cannot be decoded.
    """
    picture = files.read_drawn_mask(mask)
    turn = orientation(picture) if lies_on is None else _stored_orientation(lies_on)
    if picture.mode.startswith(("I", "F")):
        picture = to_rgb(picture)  # 16-bit and float, which Pillow's own conversion would clip
    colours = picture.convert("RGB")
    levels = colours.getchannel("R") if channel == "red" else colours.convert("L")
    return levels if turn is None else levels.transpose(TRANSPOSITIONS[turn])


def _stored_orientation(photo: Path) -> int | None:
    """Return a photo's EXIF orientation, without decoding the photo."""
    with open_picture(photo, "photo", decode=False) as image:
        return orientation(image)


UNREAD_SUFFIXES = (".jxl", ".jp2")
"""Suffixes of image formats that are not supported here."""


def clashes(photos: Iterable[Path]) -> list[str]:
    """Describe photos whose masks would have the same name."""
    problems, known = [], dict[str, Path]()
    for photo in photos:
        if known.get(photo.stem) == photo:
            problems.append(f"{photo.name} is listed twice; remove one")
        elif photo.stem in known:
            problems.append(
                f"{known[photo.stem].name} and {photo.name} have the same name except for the suffix; rename one"
            )
        known.setdefault(photo.stem, photo)
    return problems


def foreign(folder: Path, photos: Iterable[Path] | None = None) -> list[str]:
    """Describe images in unsupported formats and, if photos are given, captions without a photo; nothing else."""
    names = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    problems = [
        f"{path.name} is a picture in an unsupported format; convert or remove it"
        for path in names
        if _is_unread(path)
    ]
    if photos is None:
        return problems
    stems = {photo.stem for photo in photos}
    captions = [path for path in names if path.suffix.lower() == CAPTION]
    lost = [path for path in captions if path.stem not in stems]
    unread = [path for path in captions if path.stem in stems and not path.with_suffix(CAPTION).exists()]
    problems += [f"{path.name} is the caption of no photo; remove it" for path in lost]
    return problems + [f"{path.name} is not read as a caption; rename it to {path.stem}{CAPTION}" for path in unread]


def _is_unread(path: Path) -> bool:
    return path.suffix.lower() in UNREAD_SUFFIXES
