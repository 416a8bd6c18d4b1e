"""Photos and masks to export: the output of segmentation, or two folders with matching names."""

from dataclasses import dataclass
from pathlib import Path

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats.foreign_files import foreign
from persam_dreambooth.formats.samples import CAPTION, read_caption, refuse
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, newest_entries
from persam_dreambooth.photos.pairs import find_masks, left_out_of, mask_folder


@dataclass(frozen=True)
class Pair:
    """Paths of a photo and its mask, and the photo's caption."""

    photo: Path
    mask: Path
    caption: str | None


@dataclass(frozen=True)
class Source:
    """The photos to export, and those left out.

    Attributes:
        pairs: sorted by the photos' names.
        left_out: photos that segmentation could not read, that a person excluded, or in which segmentation is
            uncertain of the subject, each with the reason.
    """

    pairs: list[Pair]
    left_out: dict[Path, str]

    def unread_words(self, besides: tuple[Path, ...]) -> list[str]:
        """Report skipped files in the photos' folders, one line per folder; see `files.unread_words`."""
        folders = dict.fromkeys(pair.photo.parent for pair in self.pairs)
        return [words for folder in folders if (words := files.unread_words(files.unread_files(folder, besides)))]


def read_source(
    masks: Path, images: Path | None = None, caption_extension: str = CAPTION, include_uncertain: bool = False
) -> Source:
    """Pair photos and masks as training does.

    Args:
        masks: folder of masks with their photos' names, or the folder that `persam-dreambooth segment` wrote.
        images: folder of photos; None takes those in segmentation's manifest.
        caption_extension: suffix of the text files beside the photos.
        include_uncertain: keep photos in which segmentation is uncertain of the subject.

    Raises:
        UserError: no such folder; a list of photos without masks, masks without photos, clashing names, pictures
            in unsupported formats and missing photos; or nothing is left.
    """
    folder = mask_folder(masks, "--masks")
    manifest = folder.parent / MANIFEST_NAME
    entries = newest_entries(manifest)
    photos = _photos(images, entries, manifest)
    found = find_masks(folder, photos)
    left_out = left_out_of(photos, found, entries, include_uncertain)
    problems = [f"{photo} does not exist" for photo in photos if not photo.is_file()]
    problems += [problem for place in filter(None, (images, folder)) for problem in foreign(place)]
    kept = [photo for photo in photos if photo not in left_out]
    problems += [f"{photo.name} has no mask" for photo in kept if photo.stem not in found]
    stems = {photo.stem for photo in photos}
    problems += [f"the mask {path.name} has no photo" for stem, path in found.items() if stem not in stems]
    refuse(problems, f"the masks in {folder} do not match the photos")
    if not kept:
        raise UserError(
            f"nothing to export: {'; '.join(left_out.values())}; look at the contact sheet, and keep photos whose "
            "masks are right with --include_uncertain"
        )
    captions = [read_caption(photo.with_suffix(caption_extension)) for photo in kept]
    pairs = [Pair(photo, found[photo.stem], caption) for photo, caption in zip(kept, captions, strict=True)]
    return Source(pairs, left_out)


def _photos(images: Path | None, entries: list[ManifestEntry], manifest: Path) -> list[Path]:
    """List the photos in a folder, or those in the manifest, sorted by name."""
    if images is not None:
        return files.find_photos(images)
    if not entries:
        raise UserError(f"there is no {manifest} to say where the photos are; give their folder as --images")
    paths = [manifest.parent / entry.photo for entry in entries]
    photos = sorted((path.parent.resolve() / path.name for path in paths), key=lambda photo: photo.name)
    files.refuse_clashing_stems(photos)
    return photos
