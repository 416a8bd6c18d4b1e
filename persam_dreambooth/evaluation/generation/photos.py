"""The subject's own photos with their masks: the training photos that pictures are compared with."""

import logging
from pathlib import Path

from persam_dreambooth.errors import UserError
from persam_dreambooth.masks import Looks
from persam_dreambooth.photos import files, pairs
from persam_dreambooth.photos.manifest import MANIFEST_NAME, newest_entries
from persam_dreambooth.preprocessing.references import ReferenceFiles

logger = logging.getLogger(__name__)


def photos_with_masks(photos: Path, masks: Path) -> tuple[list[ReferenceFiles], list[str]]:
    """List the photos of a folder that training would use with their masks, after reading each once as a check.

    Args:
        photos: folder.
        masks: folder of masks with the photos' names, or an output folder of `persam-dreambooth segment`, with
            masks/ in it.

    Returns:
        Photos and masks; and, if segmentation's manifest is next to the masks, the reason for each photo that is
        left out: it could not be read, a person excluded it, or segmentation doubts that it shows the subject.

    Raises:
        UserError: no photo; an unreadable photo or mask; a mask that is missing, of another size, empty or full;
            or all photos are left out.
    """
    found, folder = files.find_photos(photos), pairs.mask_folder(masks, "--instance_mask_dir")
    entries = newest_entries(folder.parent / MANIFEST_NAME)
    left_out = pairs.left_out_of(found, pairs.find_masks(folder, found), entries)
    kept = [photo for photo in found if photo not in left_out]
    if not kept:
        raise UserError(
            f"no photo to compare with: {'; '.join(left_out.values())}; approve those whose masks are right with "
            "`persam-dreambooth review`"
        )
    drawn = pairs.pair(kept, folder)
    looks = Looks()
    for photo in kept:
        mask = files.read_mask(drawn[photo])
        pairs.check_mask(drawn[photo], mask, photo, files.read_photo(photo).size, looks)
    unread = files.unread_words(files.unread_files(photos, (masks,)))
    for words in (unread, pairs.unpaired_words(found, folder), *looks.warnings()):
        if words:
            logger.warning(words)
    return [ReferenceFiles(photo, mask=mask) for photo, mask in drawn.items()], list(left_out.values())
