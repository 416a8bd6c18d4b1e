"""The subject's own photos, each with its mask: what was trained on, and what the pictures are compared with."""

from pathlib import Path

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, pairs
from persam_dreambooth.references import ReferenceFiles


def photos_with_masks(photos: Path, masks: Path) -> list[ReferenceFiles]:
    """Every photo of a folder and its mask, read once to be sure of both.

    Args:
        photos: folder.
        masks: folder of masks with the photos' names, or what `persam-dreambooth segment` wrote, with masks/ in it.

    Raises:
        UserError: no photo; a photo or mask that cannot be read; a mask that is missing, of another size, empty or
            full.
    """
    found = files.find_photos(photos)
    drawn = pairs.pair(found, pairs.mask_folder(masks, "--instance_mask_dir"))
    for photo in found:
        _check(photo, drawn[photo])
    return [ReferenceFiles(photo, mask=mask) for photo, mask in drawn.items()]


def _check(photo: Path, drawn: Path) -> None:
    mask = files.read_mask(drawn)
    pairs.check_size(drawn, mask.shape, photo, files.read_photo(photo).size)
    if mask.all() or not mask.any():
        raise UserError(f"the mask {drawn} is {'full' if mask.all() else 'empty'}; mark the subject, or take it out")
