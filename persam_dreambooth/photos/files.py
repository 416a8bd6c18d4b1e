"""Read and write photos and masks; every write is atomic."""

import errno
import hashlib
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from persam_dreambooth.atomic_io import is_unfinished, replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.image_files import open_picture
from persam_dreambooth.images import to_levels, to_mask, to_rgb
from persam_dreambooth.masks import refuse_picture
from persam_dreambooth.photos.listing import NO_PHOTOS as NO_PHOTOS
from persam_dreambooth.photos.listing import PHOTO_SUFFIXES as PHOTO_SUFFIXES
from persam_dreambooth.photos.listing import find_photos as find_photos
from persam_dreambooth.photos.listing import is_photo as is_photo
from persam_dreambooth.photos.listing import list_photos as list_photos
from persam_dreambooth.photos.listing import refuse_clashing_stems as refuse_clashing_stems
from persam_dreambooth.photos.listing import unread_files as unread_files
from persam_dreambooth.photos.listing import unread_words as unread_words
from persam_dreambooth.photos.manifest import LOCK_NAME

UNREAD_NAME = "not_read.json"


def read_photo(path: Path, managed: bool = True) -> Image.Image:
    """Read a photo as an upright 8-bit RGB image; if the file holds several images, the first.

    Args:
        path: the file.
        managed: convert its colours to sRGB by the embedded profile; see `to_rgb`.

    Raises:
        UserError: the file cannot be opened or decoded.
    """
    with open_picture(path, "photo") as image:
        return to_rgb(image, managed)


def read_mask(path: Path, known: bool = False) -> NDArray[np.bool_]:
    """Read a mask file of any kind as (H, W) bool; see `to_mask`.

    Args:
        path: the file.
        known: the file was checked before, so that it need not be checked again.

    Raises:
        UserError: the file cannot be opened or decoded, or is a photo instead of a mask.
    """
    with open_picture(path, "mask") as image:
        if not known:
            refuse_picture(image, f"the mask {path}")
        return to_mask(image)


def read_levels(path: Path, known: bool = False) -> NDArray[np.uint8]:
    """Read a mask file of any kind as weights, (H, W) uint8; see `to_levels`. Arguments and errors as `read_mask`."""
    with open_picture(path, "mask") as image:
        if not known:
            refuse_picture(image, f"the mask {path}")
        return to_levels(image)


def read_drawn_mask(path: Path) -> Image.Image:
    """Read a mask file with its stored values.

    Raises:
        UserError: see `read_mask`.
    """
    with open_picture(path, "mask") as image:
        refuse_picture(image, f"the mask {path}")
        return image.copy()


def read_picture(path: Path) -> Image.Image:
    """Read an image file as stored.

    Raises:
        UserError: the file cannot be opened or decoded.
    """
    with open_picture(path) as image:
        return image.copy()


def check_output_folder(folder: Path) -> None:
    """Refuse an output folder that cannot be created, before any work is done.

    Raises:
        UserError: it is a file, lies below one, or is a link to itself.
    """
    try:
        folder.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"the output folder {folder} is a link to itself; choose another") from error
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"the output folder {folder} cannot be created: {path} is a file; choose another folder")


def refuse_other_runs(
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    what: str,
    besides: Sequence[str] = (),
    remedy: str = "choose another output folder",
) -> bool:
    """Return whether a folder is from an earlier run with the same settings; it may also be empty or absent.

    Args:
        folder: the output folder.
        name: the JSON file in it that stores a run's settings.
        settings: the settings of this run.
        what: the kind of run, for messages: "segmentation run".
        besides: names of files that a folder without settings may hold, besides the manifest's lock.
        remedy: what the user can do about a folder of another run.

    Raises:
        UserError: it holds another run or other files, or cannot be created.
    """
    check_output_folder(folder)
    path = folder / name
    if not path.exists():
        found = [item for item in folder.iterdir() if not is_unfinished(item)] if folder.exists() else []
        if any(item.name not in (LOCK_NAME, *besides) for item in found):
            raise UserError(
                f"{folder} exists and is not from an earlier {what}; choose another or an empty output folder"
            )
        return False
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged; {remedy}") from error
    # To JSON and back, like the stored settings: tuples become lists.
    changed = [key for key, value in json.loads(json.dumps(dict(settings))).items() if before.get(key) != value]
    if changed:
        raise UserError(f"{folder} holds another {what.split()[-1]} ({', '.join(changed)} differ); {remedy}")
    return True


def write_json(value: object, path: Path) -> None:
    """Write a JSON file atomically."""
    with replacing(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        # A path that is not UTF-8 holds lone surrogates, which JSON escapes in the same way as Python.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def note_unread(unread: Mapping[Path, str], output: Path) -> None:
    """Write the result of `unread_files` to `not_read.json` in the output folder, by file name; no file if empty."""
    path = output / UNREAD_NAME
    if unread:
        write_json({file.name: reason for file, reason in unread.items()}, path)
    else:
        path.unlink(missing_ok=True)


def write_mask(mask: NDArray[np.bool_] | NDArray[np.uint8], path: Path) -> None:
    """Save a mask as an 8-bit grey PNG: (H, W) bool as 0 and 255, (H, W) uint8 as it is."""
    levels = mask.astype(np.uint8) * np.uint8(255) if mask.dtype == np.bool_ else mask
    with replacing(path) as temporary:
        Image.fromarray(levels).save(temporary, format="PNG")


def encoded(picture: Image.Image, form: str) -> bytes:
    """Encode a picture in Pillow's format `form`, such as PNG."""
    buffer = BytesIO()
    picture.save(buffer, format=form)
    return buffer.getvalue()


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_picture(picture: Image.Image, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Save a picture in the format that the path's suffix names; with `texts`, a PNG's text entries by their keys."""
    options: dict[str, Any] = {}
    if texts:
        options["pnginfo"] = PngInfo()
        for key, text in texts.items():
            options["pnginfo"].add_itxt(key, text)
    with replacing(path) as temporary:
        picture.save(temporary, **options)


def picture_texts(path: Path, whole: bool = False) -> dict[str, str]:
    """Return the text entries of a PNG that come before its pixels, where `write_picture` puts them.

    Args:
        path: the file; without entries, or if it is missing or damaged, the result is empty.
        whole: also decode the pixels, to see whether they are damaged; otherwise they are not read.
    """
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if whole:
                picture.load()
            return {str(key): str(text) for key, text in picture.info.items() if isinstance(text, str)}
    except (OSError, ValueError, SyntaxError):
        return {}


def file_state(path: Path) -> tuple[int, int, int] | None:
    """Return inode, size in bytes and time of writing in ns, which change when a file does; None if it is absent."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, to see whether it has changed; "" if it cannot be read."""
    if not path.is_file():  # opening a pipe would block
        return ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
