"""Export masks to other trainers and import theirs: one table entry per trainer serves both."""

from dataclasses import replace
from pathlib import Path

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats.export import Exported, Selection, export_beside, export_folder, read_selection
from persam_dreambooth.formats.import_ import IMAGES, Imported, import_folder
from persam_dreambooth.formats.layouts import Given
from persam_dreambooth.formats.masked_photos import CAPTION
from persam_dreambooth.formats.table import CONVENTIONS, Convention
from persam_dreambooth.text_files import check_caption_extension

__all__ = [
    "CONVENTIONS",
    "IMAGES",
    "Convention",
    "Exported",
    "Imported",
    "Selection",
    "export_beside",
    "export_folder",
    "export_masks",
    "import_folder",
    "import_masks",
    "read_selection",
]


def export_masks(
    masks: Path | str,
    output: Path | str | None,
    to: str,
    *,
    images: Path | str | None = None,
    caption_extension: str = CAPTION,
    instance_prompt: str | None = None,
    include_uncertain: bool = False,
) -> Exported:
    """Write photos and masks in another trainer's layout, all of them or none.

    Args:
        masks: output folder of `segment_folder`, or a folder of masks with their photos' names.
        output: new folder; None puts the masks beside the photos, for trainers that look for them there.
        to: the trainer: onetrainer, kohya, simpletuner, ai-toolkit, ... (`persam-dreambooth export --help`).
        images: folder of photos; None takes those in the masks' manifest.
        caption_extension: suffix of the text files beside the photos.
        instance_prompt: caption of photos without one; needs an output folder.
        include_uncertain: keep photos in which segmentation is uncertain of the subject.

    Raises:
        UserError: no such trainer or folder, photos and masks that do not fit each other, or an output folder
            that is not empty.
    """
    convention = _convention("to", to)
    check_caption_extension(caption_extension)
    if output is None and instance_prompt:
        raise UserError("masks beside the photos come without captions; leave instance_prompt out, or give an output")
    chosen = read_selection(
        Path(masks), None if images is None else Path(images), caption_extension, include_uncertain
    )
    if output is None:
        exported = export_beside(chosen, convention)
    else:
        exported = export_folder(chosen, convention, Path(output), instance_prompt)
    unread = chosen.unread_words((Path(masks),))
    return replace(exported, left_out=list(chosen.left_out.values()), unread=unread)


def import_masks(
    folder: Path | str,
    output: Path | str,
    source: str,
    *,
    images: Path | str | None = None,
    masks: Path | str | None = None,
    category: str | None = None,
) -> Imported:
    """Write another trainer's photos and masks as `images/`, `masks/` and a manifest, all of them or none.

    Args:
        folder: the trainer's photos, a folder with images/ and masks/, or the JSON file that lists them.
        output: new folder; for training, its `images` holds the photos and the folder itself the masks.
        source: the trainer, as `to` of `export_masks`.
        images: folder of the photos, if it has another name.
        masks: folder of the masks, if it has another name.
        category: name of the subject's category in a COCO file with several.

    Raises:
        UserError: no such trainer or folder, photos and masks that do not fit each other, or an output folder
            that is not empty.
    """
    given = Given(
        Path(folder), None if images is None else Path(images), None if masks is None else Path(masks), category
    )
    return import_folder(_convention("source", source), given, Path(output))


def _convention(argument: str, trainer: str) -> Convention:
    if trainer not in CONVENTIONS:
        raise UserError(f"{argument}={trainer!r} is not known; choose one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[trainer]
