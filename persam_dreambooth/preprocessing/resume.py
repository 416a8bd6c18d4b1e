"""Begin a run in a folder that may hold an earlier one, and end it: what stays, what is found again, what goes."""

import logging
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import ManifestEntry, ManifestIndex
from persam_dreambooth.preprocessing.contact_sheet import remove_sheet, write_sheet
from persam_dreambooth.preprocessing.mask_store import SETTINGS_NAME, MaskStore
from persam_dreambooth.preprocessing.references import ReferenceFiles

logger = logging.getLogger(__name__)


def resume(store: MaskStore, photos: Sequence[Path]) -> ManifestIndex:
    """Take up an earlier call's folder: its journals become one manifest.

    Returns:
        The manifest as it was.
    """
    if store.exists():
        with store.rewriting() as newest:
            store.rewrite(newest)
    before = store.known()
    keep_reviewed(store, photos)
    return before


def take_over(
    store: MaskStore, settings: dict[str, Any], references: Sequence[ReferenceFiles], photos: Sequence[Path]
) -> ManifestIndex:
    """Make the folder another run's: masks that a person made or judged stay, the others are found again.

    Args:
        store: the folder.
        settings: the new run's.
        references: the new run's, whose masks take the place of those that their photos had as references.
        photos: the new run's.

    Returns:
        The manifest as it was.
    """
    with store.rewriting() as before:
        kept = [entry.reviewed and not _is_outdated(store, entry, references) for entry in before]
        # Masks go before their lines: of a mask without a line nobody knows that it was doubted.
        given = {drawing.resolve() for reference in references for drawing in reference.drawings}
        store.remove_files((entry for entry, stays in zip(before, kept, strict=True) if not stays), but=given)
        store.rewrite(entry for entry, stays in zip(before, kept, strict=True) if stays)
        store.write_settings(settings)
    keep_reviewed(store, photos)
    return before


def _is_outdated(store: MaskStore, entry: ManifestEntry, references: Sequence[ReferenceFiles]) -> bool:
    """Whether an entry is of a photo that is a reference again, and not by the mask that lies here."""
    photo, mask = ((store.path / str(path)).resolve() for path in (entry.photo, entry.mask))
    own = [reference for reference in references if reference.image.resolve() == photo]
    return entry.source == "reference" and any(
        not reference.mask or reference.mask.resolve() != mask for reference in own
    )


def keep_reviewed(store: MaskStore, photos: Sequence[Path]) -> None:
    """Keep masks that a person made or judged where the photo was moved or saved again, or the overlay is gone.

    If the mask is gone or the photo has another size, the line goes, so that the subject is found again.
    """
    if not store.exists():
        return
    by_stem = {photo.stem: photo for photo in photos}
    with store.rewriting() as newest:
        renewed = (_renewed(store, by_stem.get(Path(entry.photo).stem), entry) for entry in newest)
        store.rewrite(entry for entry in renewed if entry is not None)


def _renewed(store: MaskStore, photo: Path | None, entry: ManifestEntry) -> ManifestEntry | None:
    """The entry for the photo as it is now; None if a person's mask does not fit it any more."""
    if photo is None or not entry.reviewed:
        return entry
    if store.has_files(entry.mask, entry.overlay) and store.describes(photo, entry):
        return entry
    try:
        image, path = files.read_photo(photo), store.path / str(entry.mask)
        if entry.mask is None or not path.exists():
            return None
        mask = files.read_mask(path)
    except UserError:  # the line of what cannot be read says so later
        return entry
    if mask.shape != image.size[::-1]:
        logger.warning(f"the mask of {photo.name} was made on a photo of another size; the subject is found anew")
        return None
    return store.draw(image, mask, store.renamed(photo, entry))


def finish(store: MaskStore, photos: Sequence[Path], before: ManifestIndex) -> None:
    """Sort the manifest, remove the files of photos that are gone, draw the contact sheet.

    Args:
        store: the folder.
        photos: all of the run's.
        before: the manifest as it was when the run began.

    Raises:
        UserError: somebody removed the folder while the run went on.
    """
    if not (store.path / SETTINGS_NAME).exists():
        raise UserError(f"{store.path} was removed while its photos were segmented; run the command again")
    with store.rewriting() as newest:
        stems = {photo.stem for photo in photos}
        left = [entry for entry in before if Path(entry.photo).stem not in stems]
        # Sheet and files go before the lines: stopped in between, the next call does the rest.
        if left or any(old != new for old, new in zip_longest(before, newest)):
            remove_sheet(store.path)
        store.remove_files(left)
        # One may be missing: drawn while it was looked at, and taken back. The next run looks at it.
        store.rewrite(entry for photo in photos if (entry := newest.get(photo.name)) is not None)
    write_sheet(store.path, store.entries)
