"""Find the folders of a subject's photos and masks; make masks from a reference before training."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, pairs
from persam_dreambooth.photos.listing import PhotoFolder, repeated_folders
from persam_dreambooth.preprocessing import SegmentationJob, segment_folder
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation.method import METHODS, SegGptMethod
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data.concepts import Concept

SEGMENTATION_FOLDER = "segmentation"


def segment_first(concept: Concept, config: TrainingConfig, device: torch.device) -> None:
    """Make the masks in the output folder if the user gave a reference instead of masks.

    Call it in one process only, before the others look for the masks.
    """
    mask = config.mask
    if not mask.masked_loss or concept.reference is None:
        return
    reference = ReferenceFiles(*concept.reference)
    method = METHODS[mask.segmentation_method]
    if mask.segmentation_seggpt and isinstance(method, SegGptMethod):
        method = replace(method, model=mask.segmentation_seggpt)
    for folder in photo_folders(concept):
        output = _segmentation(concept, config) / folder.name
        job = SegmentationJob(
            folder.path,
            (reference,),
            output,
            mask.sam,
            method,
            str(device),
            features=mask.segmentation_features,
            features_size=mask.segmentation_features_size,
        )
        segment_folder(job)


def photo_folders(concept: Concept) -> list[PhotoFolder]:
    """Return the folders of a subject's photos: the given one or, if it has no photos, kohya's folders inside it."""
    inside = repeated_folders(concept.photos)
    return inside if inside and not files.list_photos(concept.photos) else [PhotoFolder(concept.photos)]


def phrases(concept: Concept) -> list[str]:
    """Return the words that name the regions of a subject's photos: the names of the folders of their masks, sorted.

    Returns:
        One empty string if photos have one mask each.

    Raises:
        UserError: no such folder, or no folder in it.
    """
    if concept.regions is None:
        return [""]
    if not concept.regions.is_dir():
        raise UserError(
            f"--region_mask_dir {concept.regions} is not a folder; give one with a folder for each subject"
        )
    found = sorted(path.name for path in concept.regions.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found or "masks" in found:  # what `segment` writes for a single subject
        raise UserError(
            f"--region_mask_dir {concept.regions} holds no folders named like subjects; put the masks of each subject "
            "into a folder that is named by its words in the prompts, or give --instance_mask_dir"
        )
    return found


def mask_folder(concept: Concept, config: TrainingConfig, folder: PhotoFolder, phrase: str = "") -> Path:
    """Return the folder of the masks of a folder of photos; for a folder that `segment` wrote, its subfolder `masks`.

    Masks of kohya's folders lie in folders of the same names or, without such a folder, all in one.

    Args:
        concept: the subject.
        config: the run's settings.
        folder: of photos.
        phrase: one of `phrases`.

    Raises:
        UserError: no such folder.
    """
    if concept.reference:
        return _segmentation(concept, config) / folder.name / "masks"
    flag = "--region_mask_dir" if concept.regions else "--instance_mask_dir"
    given = pairs.mask_folder(concept.regions / phrase if concept.regions else Path(str(concept.masks)), flag)
    own = given / folder.name
    return pairs.mask_folder(own, flag) if folder.name and own.is_dir() else given


def exclusion_masks(masks: Mapping[Path, Sequence[Path]], concept: Concept) -> dict[Path, Path]:
    """Return the exclusion masks of those photos that have one: in `--exclude_mask_dir`, or else beside their masks.

    Args:
        masks: each photo's masks.
        concept: the subject.

    Raises:
        UserError: no such folder, nothing in it is named like a photo, or a photo has two beside its masks.
    """
    if concept.excluded is None:
        beside = defaultdict[Path, list[Path]](list)
        for photo, own in masks.items():
            for mask in own:
                beside[mask.parent].append(photo)
        found = dict[Path, Path]()
        for folder, photos in beside.items():
            for photo, path in pairs.find_exclusions(photos, folder).items():
                if found.setdefault(photo, path) != path:
                    raise UserError(
                        f"{photo.name} has two exclusion masks, {found[photo]} and {path}; keep one of them"
                    )
        return found
    given, excluded = pairs.mask_folder(concept.excluded, "--exclude_mask_dir"), dict[Path, Path]()
    for inner in photo_folders(concept):
        folder = given / inner.name if (given / inner.name).is_dir() else given
        photos = [photo for photo in masks if photo.parent == inner.path]
        excluded |= pairs.find_exclusions(photos, folder, in_own_folder=True)
    if not excluded:
        raise UserError(f"nothing in --exclude_mask_dir {given} is named like a photo; rename the masks, or drop it")
    return excluded


def _segmentation(concept: Concept, config: TrainingConfig) -> Path:
    """Return the folder for masks that are made from a reference; with several subjects each has its own."""
    return Path(config.output.output_dir) / SEGMENTATION_FOLDER / concept.name
