"""Import a trainer's folder as photos, masks and a manifest, completely or not at all."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from persam_dreambooth.atomic_io import replacing, replacing_folder
from persam_dreambooth.errors import UserError, counted
from persam_dreambooth.formats.export import refuse_used
from persam_dreambooth.formats.layouts import Given
from persam_dreambooth.formats.masked_photos import ListedPhoto, refuse, unused, write_caption
from persam_dreambooth.formats.table import Convention
from persam_dreambooth.images import above_half, without_noise
from persam_dreambooth.masks import Looks
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, write_manifest

IMAGES, MASKS = "images", "masks"


@dataclass(frozen=True)
class Imported:
    """Result of an import.

    Attributes:
        count: number of photos.
        grey: photo's name -> number of its mask's pixels that are neither black nor white, and so count in part.
        empty: names of the photos whose masks are empty.
        looks: checks of all masks.
        without_words: names of the photos without a caption.
        unread: files skipped in the photos' folders, one line per folder; see `files.unread_words`.
    """

    count: int
    grey: dict[str, int] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    looks: Looks = field(default_factory=Looks)
    without_words: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def import_folder(convention: Convention, given: Given, output: Path) -> Imported:
    """Write `images/`, `masks/` and the manifest, which training and the other commands read.

    Photos are copied byte for byte; those with a mask in their alpha channel, or with a suffix that is not read here,
    become opaque PNGs. Grey levels of masks are kept as weights; levels up to 3 become black, from 252 on white.

    Raises:
        UserError: photos without masks, masks without photos, clashing names, names that are skipped here, pictures
            in unsupported formats or masks of another size, all listed in one message; there is no photo; or the
            output folder is not empty or lies in the trainer's.
    """
    items, problems = convention.layout.find(given)
    what = f"{given.folder} cannot be read as {convention.title}'s"
    if not items and not problems:
        raise UserError(f"{what}: there is no photo; --help says where photos and masks are looked for")
    folders = {given.folder, given.images, given.masks, *(item.photo.parent for item in items)}
    refuse_used(output, {folder for folder in folders if folder is not None})
    entries, imported = [], Imported(len(items))
    with replacing_folder(output) as folder:
        for item in tqdm(items, desc="Importing", unit="photo", delay=2):
            try:
                entries.append(_take(item, folder, imported))
            except UserError as error:
                problems.append(str(error))
        refuse(problems, what)
        masks = given.masks or given.folder / str(convention.layout.masks)
        for place in dict.fromkeys(item.photo.parent for item in items):
            imported.unread.extend(filter(None, [files.unread_words(files.unread_files(place, (masks,)))]))
        write_manifest(folder / MANIFEST_NAME, sorted(entries, key=lambda entry: entry.photo))
    return imported


def _take(item: ListedPhoto, folder: Path, imported: Imported) -> ManifestEntry:
    """Copy one photo, with its mask and its caption."""
    image = item.read_photo() if item.read_photo else files.read_photo(item.photo)
    picture = item.read_levels()
    if picture.size != image.size:
        raise UserError(
            f"the mask of {item.photo.name} is {picture.width} x {picture.height} pixels, the photo {image.width} x "
            f"{image.height}; make it again in the photo's size"
        )
    levels = without_noise(np.asarray(picture))
    grey = int(((levels > 0) & (levels < 255)).sum())
    if grey:
        imported.grey[item.photo.name] = grey
    imported.looks.add(item.photo.name, above_half(levels))
    if not levels.any():
        imported.empty.append(item.photo.name)
    photo = _write_photo(item, image, folder / IMAGES)
    write_caption(item.caption, photo)
    if item.caption is None:
        imported.without_words.append(photo.name)
    mask_path = unused(folder / MASKS / f"{photo.stem}.png")
    files.write_mask(levels, mask_path)
    box = Image.fromarray(levels).getbbox()
    return ManifestEntry(
        photo=f"{IMAGES}/{photo.name}",
        digest=files.digest(photo),
        width=image.width,
        height=image.height,
        mask=f"{MASKS}/{mask_path.name}",
        mask_digest=files.digest(mask_path),
        source="given",
        box=None if box is None else [box[0], box[1], box[2] - 1, box[3] - 1],
        warnings=[f"the mask has {counted(grey, 'grey pixel')}, which count in part"] if grey else [],
    )


def _write_photo(item: ListedPhoto, image: Image.Image, folder: Path) -> Path:
    keeps_bytes = item.read_photo is None and item.photo.suffix.lower() in files.PHOTO_SUFFIXES
    photo = unused(folder / (item.photo.name if keeps_bytes else f"{item.photo.stem}.png"))
    if photo.name.startswith(".") or photo.name.endswith(files.NO_PHOTOS):
        raise UserError(f"{item.photo.name} has a name that is not read as a photo here; rename it")
    if not keeps_bytes:
        files.write_picture(image, photo)
        return photo
    with replacing(photo) as temporary:
        shutil.copyfile(item.photo, temporary)
    return photo
