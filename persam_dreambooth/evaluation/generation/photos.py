"""The subject's own photos, each with its mask: what was trained on, and what the pictures are compared with."""

from pathlib import Path

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
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
    folder = masks / "masks" if (masks / "masks").is_dir() else masks
    if not folder.is_dir():
        raise UserError(f"--instance_mask_dir {masks} is not a folder; give the folder that holds the masks")
    if folder.resolve() == photos.resolve():
        raise UserError(f"the masks in {masks} are the photos themselves; give the folder that holds the masks")
    drawn = files.list_photos(folder)
    files.refuse_clashing_stems(drawn)
    by_stem = {path.stem: path for path in drawn}
    missing = [photo.name for photo in found if photo.stem not in by_stem]
    if missing:
        raise UserError(
            f"no mask in {folder} for {', '.join(missing)}; a mask has its photo's name, such as "
            f"{Path(missing[0]).stem}.png: make it with `persam-dreambooth segment`, or take the photo out"
        )
    for photo in found:
        _check(photo, by_stem[photo.stem])
    return [ReferenceFiles(photo, mask=by_stem[photo.stem]) for photo in found]


def _check(photo: Path, drawn: Path) -> None:
    width, height = files.read_photo(photo).size
    mask = files.read_mask(drawn)
    if mask.shape != (height, width):
        raise UserError(
            f"the mask {drawn} is {mask.shape[1]} x {mask.shape[0]} pixels but its photo {photo.name} is "
            f"{width} x {height} (upright); make the mask anew on this photo"
        )
    if mask.all() or not mask.any():
        raise UserError(f"the mask {drawn} is {'full' if mask.all() else 'empty'}; mark the subject, or take it out")
