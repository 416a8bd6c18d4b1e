"""Pair photos with their masks, which have the same name except for the suffix."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from persam_dreambooth.errors import UserError, listed, printable
from persam_dreambooth.image_files import open_picture
from persam_dreambooth.images import orientation
from persam_dreambooth.masks import Looks, refuse_empty, refuse_full
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import ManifestEntry

EXCLUSION = "-exclude"
"""Ending of the stem of an exclusion mask, which lies beside its photo's mask."""
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


def mask_folder(given: Path, flag: str) -> Path:
    """Return the folder of the masks: the given one or, if `persam-dreambooth segment` wrote that, its `masks`.

    Args:
        flag: the flag by which the folder was given, for messages.

    Raises:
        UserError: no such folder.
    """
    folder = given / "masks" if (given / "masks").is_dir() else given
    if not folder.is_dir():
        raise UserError(f"{flag} {given} is not a folder; give the folder that holds the masks, or segment's output")
    return folder


def find_masks(folder: Path, photos: Iterable[Path]) -> dict[str, Path]:
    """Return the masks in a folder by their stems, without the exclusion masks of these photos.

    Raises:
        UserError: two of them have the same stem, or they are the photos themselves.
    """
    photos = list(photos)
    masks = _without_exclusions(folder, photos)
    if {path.resolve() for path in masks} & {photo.resolve() for photo in photos}:
        raise UserError(f"the masks in {folder} are the photos themselves; give the folder that holds the masks")
    files.refuse_clashing_stems(masks)
    return {path.stem: path for path in masks}


def _without_exclusions(folder: Path, photos: Iterable[Path]) -> list[Path]:
    stems = {photo.stem for photo in photos}
    own = {f"{stem}{EXCLUSION}" for stem in stems} - stems
    return [path for path in files.list_photos(folder) if path.stem not in own]


def find_exclusions(photos: Iterable[Path], folder: Path, in_own_folder: bool = False) -> dict[Path, Path]:
    """Return the exclusion masks in a folder, `<photo's stem>-exclude`, for those photos that have one.

    Args:
        photos: the files; their names do not end in `-exclude`.
        folder: where the exclusion masks are.
        in_own_folder: the folder holds nothing else, so that a mask may also have just its photo's stem.

    Raises:
        UserError: two of them have the same stem.
    """
    names = ("", EXCLUSION) if in_own_folder else (EXCLUSION,)
    wanted = {f"{photo.stem}{ending}": photo for photo in photos for ending in names}
    found = [path for path in files.list_photos(folder) if path.stem in wanted]
    files.refuse_clashing_stems(found)
    return {wanted[path.stem]: path for path in found}


def pair(photos: Iterable[Path], folder: Path, all_of_them: bool = True) -> dict[Path, Path]:
    """Return each photo's mask; without `all_of_them`, of those photos that have one.

    Raises:
        UserError: photos without a mask, by name, or what `find_masks` refuses.
    """
    photos = list(photos)
    masks = find_masks(folder, photos)
    missing = [photo.name for photo in photos if photo.stem not in masks]
    if missing and all_of_them:
        raise UserError(
            f"no mask in {folder} for {', '.join(missing)}; a mask has its photo's name, such as "
            f"{Path(missing[0]).stem}.png: make it with `persam-dreambooth segment`, or remove the photo"
        )
    return {photo: masks[photo.stem] for photo in photos if photo.stem in masks}


def unpaired_words(photos: Iterable[Path], folder: Path) -> str:
    """List masks without a photo in one line for the screen; empty if there are none."""
    photos = list(photos)
    stems = {photo.stem for photo in photos}
    names = [path.name for path in _without_exclusions(folder, photos) if path.stem not in stems]
    return printable(f"masks without a photo: {listed(names)}") if names else ""


def photos_to_leave_out(
    photos: Sequence[Path],
    masks: Mapping[str, Path],
    entries: Sequence[ManifestEntry],
    include_uncertain: bool = False,
) -> dict[Path, str]:
    """Find photos that could not be read, that a person excluded, or whose current mask is uncertain.

    Args:
        photos: files, some of which may be missing.
        masks: by stem, as `find_masks` returns them.
        entries: of the manifest beside the masks' folder; none if there is no manifest.
        include_uncertain: keep photos in which segmentation is uncertain of the subject.

    Returns:
        The photos to leave out, each with the reason.

    Raises:
        UserError: a photo is not the one that its mask was made for; see `refuse_changed`.
    """
    refuse_changed(photos, masks, entries)
    by_photo = {entry.digest: entry for entry in entries}
    left_out = excluded(photos, entries)
    for photo in photos if entries else ():
        if photo in left_out:
            continue
        entry = by_photo.get(files.digest(photo)) if photo.is_file() else None
        if entry is None:
            continue
        if entry.error is not None:
            left_out[photo] = entry.error
        elif entry.uncertain and not include_uncertain and _is_its_mask(masks.get(photo.stem), entry):
            left_out[photo] = uncertainty(photo, entry)
    return left_out


def refuse_changed(
    photos: Iterable[Path],
    masks: Mapping[str, Path],
    entries: Iterable[ManifestEntry],
    digest: Callable[[Path], str] = files.digest,
) -> None:
    """Refuse photos that were replaced, rotated or saved again since their masks were made.

    Otherwise training would use such a photo with a mask that misses the subject. Masks that the user edited since are
    not compared; nor are excluded photos.

    Args:
        photos: files, some of which may be missing.
        masks: by stem, as `find_masks` returns them.
        entries: the newest entry of each photo.
        digest: hashes a file; pass a cached function if the same files are hashed elsewhere too.

    Raises:
        UserError: such photos, by name.
    """
    by_stem = {Path(entry.photo).stem: entry for entry in entries if entry.mask_digest and not entry.excluded}
    changed = [
        photo.name
        for photo in photos
        if (entry := by_stem.get(photo.stem)) is not None
        and photo.is_file()
        and entry.digest not in ("", digest(photo))
        and _is_its_mask(masks.get(photo.stem), entry, digest)
    ]
    if changed:
        says = "is not the photo its mask was" if len(changed) == 1 else "are not the photos their masks were"
        raise UserError(
            f"{listed(changed)} {says} made on; run `persam-dreambooth segment` again, or put the photo back"
        )


def excluded(photos: Iterable[Path], entries: Iterable[ManifestEntry]) -> dict[Path, str]:
    """Find photos that a person excluded, by name, even if they were saved again since; each with the reason."""
    stems = {Path(entry.photo).stem for entry in entries if entry.excluded}
    return {photo: f"{photo.name} was excluded in review" for photo in photos if photo.stem in stems}


def uncertainty(photo: Path, entry: ManifestEntry) -> str:
    """Describe why segmentation is uncertain of the subject in a photo."""
    return f"the subject in {photo.name}: {entry.presence}, {entry.reason}"


def _is_its_mask(mask: Path | None, entry: ManifestEntry, digest: Callable[[Path], str] = files.digest) -> bool:
    return mask is not None and digest(mask) == entry.mask_digest


def check_mask(path: Path, mask: NDArray[np.bool_], photo: Path, size: tuple[int, int], looks: Looks) -> None:
    """Refuse a mask that is of another size than its photo, empty, or full; collect warnings about how it looks.

    Args:
        path: file of the mask.
        mask: its content, (H, W) bool.
        photo: file of the photo.
        size: the upright photo's (width, height) in pixels.
        looks: collects the warnings.

    Raises:
        UserError: the mask is refused.
    """
    check_size(path, mask.shape, photo, size)
    refuse_empty(mask, f"the mask {path}")
    refuse_full(mask, f"the mask {path}")
    looks.add(photo.name, mask)


def check_size(mask: Path, shape: tuple[int, ...], photo: Path, size: tuple[int, int]) -> None:
    """Refuse a mask of another size than its photo.

    Args:
        shape: the mask's (height, width) in pixels.
        size: the upright photo's (width, height) in pixels.

    Raises:
        UserError: they differ.
    """
    if shape == size[::-1]:
        return
    turn = exif_orientation(photo)
    remedy = "make the mask again from this photo"
    if turn in SIDEWAYS and shape == size:
        remedy = (
            f"it was drawn on the stored pixels, and EXIF orientation {turn} rotates the photo: save the photo "
            "upright and without EXIF first, or rotate the mask as viewers show the photo"
        )
    raise UserError(
        f"the mask {mask} is {shape[1]} x {shape[0]} pixels but its photo {photo.name} is {size[0]} x {size[1]} "
        f"(upright); {remedy}"
    )


def turned_words(mask: Path, photo: Path) -> str:
    """Return a warning if EXIF rotates a photo but not its mask and their sizes cannot tell whether they match."""
    turn = exif_orientation(photo)
    if turn is None or exif_orientation(mask) is not None:
        return ""
    with open_picture(photo, "photo", decode=False) as image:
        if turn in SIDEWAYS and image.width != image.height:
            return ""
    return (
        f"warning: EXIF orientation {turn} rotates {photo.name} but not its mask {mask.name}; if the mask was drawn "
        "on the stored pixels, it is rotated: look at the overlay"
    )


def exif_orientation(photo: Path) -> int | None:
    """Return the EXIF orientation of an image file; None if it is upright, as HEIC files always are when decoded.

    Raises:
        UserError: it cannot be opened.
    """
    with open_picture(photo, "photo", decode=False) as image:
        return orientation(image)
