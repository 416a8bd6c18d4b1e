"""Read and write photos and masks; nothing is ever half-written."""

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

from persam_dreambooth.atomic_io import is_unfinished, replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.image_files import open_picture
from persam_dreambooth.images import to_mask, to_rgb
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
    """A photo as an upright 8-bit RGB image; of several pictures in the file, the first.

    Args:
        path: the file.
        managed: convert its colours to sRGB by its profile; see `to_rgb`.

    Raises:
        UserError: the file cannot be opened or decoded.
    """
    with open_picture(path, "photo") as image:
        return to_rgb(image, managed)


def read_mask(path: Path, known: bool = False) -> NDArray[np.bool_]:
    """A mask file of any kind as (H, W) bool; see `to_mask`.

    Args:
        path: the file.
        known: it was read before, and need not be looked at again.

    Raises:
        UserError: the file cannot be opened or decoded, or is a photo and no mask.
    """
    with open_picture(path, "mask") as image:
        if not known:
            refuse_picture(image, f"the mask {path}")
        return to_mask(image)


def read_drawn_mask(path: Path) -> Image.Image:
    """A mask file as it is, decoded: where its values matter.

    Raises:
        UserError: as `read_mask`.
    """
    with open_picture(path, "mask") as image:
        refuse_picture(image, f"the mask {path}")
        return image.copy()


def read_picture(path: Path) -> Image.Image:
    """An image file as it is, decoded.

    Raises:
        UserError: the file cannot be opened or decoded.
    """
    with open_picture(path) as image:
        return image.copy()


def check_output_folder(folder: Path) -> None:
    """Refuse, before any work, an output folder that cannot be made.

    Raises:
        UserError: it is a file, lies below one, or is a link to itself.
    """
    try:
        folder.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(
                f"the output folder {folder} is a link that leads back to itself; choose another"
            ) from error
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"the output folder {folder} cannot be made: {path} is a file; choose another folder")


def refuse_other_runs(
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    what: str,
    besides: Sequence[str] = (),
    remedy: str = "choose another output folder",
) -> bool:
    """Whether a folder is an earlier call's with these settings; one that is empty or absent is welcome too.

    Args:
        folder: the output folder.
        name: of the JSON file in it that holds a run's settings.
        settings: this run's.
        what: a run of this kind, for people: "run" and its owner, "segmentation run".
        besides: names of files that a folder without settings may hold, with the manifest's lock.
        remedy: what to do about a folder that holds another run.

    Raises:
        UserError: it holds another run, or something else, or cannot be made.
    """
    check_output_folder(folder)
    path = folder / name
    if not path.exists():
        there = [one for one in folder.iterdir() if not is_unfinished(one)] if folder.exists() else []
        if any(one.name not in (LOCK_NAME, *besides) for one in there):
            raise UserError(f"{folder} exists and is no {what}'s; choose another or an empty output folder")
        return False
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged; {remedy}") from error
    # Through JSON and back, as the stored ones went: tuples are lists there.
    changed = [key for key, value in json.loads(json.dumps(dict(settings))).items() if before.get(key) != value]
    if changed:
        raise UserError(f"{folder} holds another {what.split()[-1]} ({', '.join(changed)} differ); {remedy}")
    return True


def write_json(value: object, path: Path) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        # A path that is no UTF-8 has halves of surrogate pairs, for which JSON's escapes look as Python's do.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def note_unread(unread: Mapping[Path, str], output: Path) -> None:
    """Keep `unread_files` beside what was made of the others, as `not_read.json`, by name; no file for none."""
    path = output / UNREAD_NAME
    if unread:
        write_json({one.name: reason for one, reason in unread.items()}, path)
    else:
        path.unlink(missing_ok=True)


def write_mask(mask: NDArray[np.bool_], path: Path) -> None:
    """Save (H, W) bool as an 8-bit grey PNG of 0 and 255."""
    with replacing(path) as temporary:
        Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")


def encoded(picture: Image.Image, form: str) -> bytes:
    """A picture as the bytes of a file of Pillow's format `form`, such as PNG."""
    buffer = BytesIO()
    picture.save(buffer, format=form)
    return buffer.getvalue()


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_picture(picture: Image.Image, path: Path) -> None:
    """Save a picture in the format of its suffix."""
    with replacing(path) as temporary:
        picture.save(temporary)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal: whether it is still the file it was; "" where it cannot be read."""
    if not path.is_file():  # a pipe would be waited for
        return ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
