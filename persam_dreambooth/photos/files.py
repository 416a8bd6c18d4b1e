"""Find, read and write photos and masks; nothing is ever half-written."""

import errno
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.images import to_mask, to_rgb
from persam_dreambooth.photos.manifest import LOCK_NAME
from persam_dreambooth.replacing import replacing

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
NO_PHOTOS = ("-masklabel.png", "-condlabel.png")
"""How the names of masks end that OneTrainer, and `export --in_place` for it, keep beside the photos."""


def find_photos(folder: Path, besides: tuple[Path, ...] = ()) -> list[Path]:
    """The photos that lie directly in a folder, sorted by name.

    Args:
        folder: where to look; hidden files, other kinds of files and OneTrainer's masks are passed over.
        besides: files that are no photos of the subject although they look like it (the reference mask).

    Raises:
        UserError: no such folder, no photo in it, or two photos that differ only in their suffix
            (their masks would have the same name).
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds the photos")
    passed_over = {path.resolve() for path in besides}
    photos = [
        path for path in list_photos(folder) if path.resolve() not in passed_over and not path.name.endswith(NO_PHOTOS)
    ]
    if not photos:
        raise UserError(f"no photo found in {folder}; put files there that end in {', '.join(PHOTO_SUFFIXES)}")
    refuse_clashing_stems(photos)
    return photos


def refuse_clashing_stems(paths: Sequence[Path]) -> None:
    """Raise a UserError when two files of a folder differ only in their suffix."""
    by_stem = defaultdict(list)
    for path in paths:
        by_stem[path.stem].append(path.name)
    clashes = [" and ".join(names) for names in by_stem.values() if len(names) > 1]
    if clashes:
        raise UserError(
            f"files in {paths[0].parent} have the same name but for the suffix: {'; '.join(clashes)}; "
            "rename one of each pair, since a mask has its photo's name"
        )


def list_photos(folder: Path) -> list[Path]:
    """The image files that lie directly in a folder, sorted by name, hidden ones left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def read_photo(path: Path) -> Image.Image:
    """A photo as an upright 8-bit RGB image.

    Raises:
        UserError: the file cannot be opened or decoded.
    """
    with _open(path, "photo") as image:
        return to_rgb(image)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask file of any kind as (H, W) bool; see `to_mask`.

    Raises:
        UserError: the file cannot be opened or decoded.
    """
    with _open(path, "mask") as image:
        return to_mask(image)


def read_picture(path: Path) -> Image.Image:
    """An image file as it is, decoded: for a mask whose file values matter.

    Raises:
        UserError: the file cannot be opened or decoded.
    """
    with _open(path, "picture") as image:
        return image.copy()


@contextmanager
def _open(path: Path, what: str) -> Iterator[Image.Image]:
    """Open and fully decode an image file; every way in which that fails becomes one line."""
    try:
        # By file object: of a path Pillow maps uncompressed TIFFs into memory, and then forgets their orientation.
        with path.open("rb") as file:
            image = Image.open(file)
            image.load()
    except FileNotFoundError as error:
        raise UserError(f"no {what} at {path}; check the path") from error
    except Exception as error:  # decoders answer damage with a dozen kinds of exception
        raise _undecodable(path, what, error) from error
    with image:
        yield image


def _undecodable(path: Path, what: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"the {what} {path} cannot be decoded ({reason}); export it again or remove it")


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
    folder: Path, name: str, settings: Mapping[str, Any], what: str, besides: Sequence[str] = ()
) -> bool:
    """Whether a folder is an earlier call's with these settings; one that is empty or absent is welcome too.

    Args:
        folder: the output folder.
        name: of the JSON file in it that holds a run's settings.
        settings: this run's.
        what: a run of this kind, for people: "run" and its owner, "segmentation run".
        besides: names of files that a folder without settings may hold, with the manifest's lock.

    Raises:
        UserError: it holds another run, or something else, or cannot be made.
    """
    check_output_folder(folder)
    path = folder / name
    if not path.exists():
        if folder.exists() and any(one.name not in (LOCK_NAME, *besides) for one in folder.iterdir()):
            raise UserError(f"{folder} exists and is no {what}'s; choose another or an empty output folder")
        return False
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged; choose another output folder or delete this one") from error
    # Through JSON and back, as the stored ones went: tuples are lists there.
    changed = [key for key, value in json.loads(json.dumps(dict(settings))).items() if before.get(key) != value]
    if changed:
        raise UserError(
            f"{folder} holds another {what.split()[-1]} ({', '.join(changed)} differ); "
            "choose another output folder or delete this one"
        )
    return True


def write_json(value: object, path: Path) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_mask(mask: NDArray[np.bool_], path: Path) -> None:
    """Save (H, W) bool as an 8-bit grey PNG of 0 and 255."""
    with replacing(path) as temporary:
        Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")


def write_picture(picture: Image.Image, path: Path) -> None:
    """Save a picture in the format of its suffix."""
    with replacing(path) as temporary:
        picture.save(temporary)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal: whether it is still the file it was; "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
