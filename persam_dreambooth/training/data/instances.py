"""Which photos are trained on, each with its mask: found, checked and written down before anything is loaded."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.logging import get_logger

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, pairs
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, newest_entries, relative_path
from persam_dreambooth.preprocessing import SETTINGS_NAME, SegmentationJob, segment_folder
from persam_dreambooth.references import ReferenceFiles
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data import concepts
from persam_dreambooth.training.data.buckets import nearest_bucket
from persam_dreambooth.training.data.crops import Size
from persam_dreambooth.training.data.dataset import InstancePhoto

SEGMENTATION_FOLDER = "segmentation"
logger = get_logger(__name__)


def segment_first(config: TrainingConfig, device: torch.device) -> None:
    """Make the masks beside the output, when the user gave a reference instead of masks.

    To be called by one process, before the others look for the masks.
    """
    mask = config.mask
    if not (mask.masked_loss and mask.reference_image and mask.reference_mask):
        return
    segment_folder(
        SegmentationJob(
            images=Path(str(config.data.instance_data_dir)),
            references=(ReferenceFiles(Path(mask.reference_image), Path(mask.reference_mask)),),
            output=_segmentation(config),
            sam=mask.sam,
            device=str(device),
        )
    )


def find_instances(config: TrainingConfig, sizes: Sequence[Size]) -> tuple[list[InstancePhoto], dict[Path, str]]:
    """The photos to train on and their masks.

    Args:
        config: one subject's.
        sizes: of crops, the nearest of which each photo gets.

    Returns:
        The photos with their masks, sorted by name; and the photos that cannot be decoded, that a
        person excluded in review, or in which segmentation doubts the subject (unless a person
        approved the mask), with the reason. Those are left out, with a warning, and the others go on.

    Raises:
        UserError: no photo, none readable, all doubted or excluded; masks missing, clashing, of another size
            than their photo, or the photos themselves.
    """
    besides = (Path(config.mask.reference_mask),) if config.mask.reference_mask else ()
    shapes, left_out = _readable(files.find_photos(Path(str(config.data.instance_data_dir)), besides))
    plain = {
        photo: InstancePhoto(photo, None, nearest_bucket((height, width), sizes), _prompt(photo, config))
        for photo, (width, height) in shapes.items()
    }
    ending = config.data.caption_extension
    if ending and not any(photo.with_suffix(ending).is_file() for photo in plain):
        logger.warning(f"no photo in {config.data.instance_data_dir} has a caption that ends in {ending}")
    if not config.mask.masked_loss:
        return list(plain.values()), left_out
    masks = pairs.pair(shapes, mask_folder(config))
    for photo, size in shapes.items():
        pairs.check_size(masks[photo], files.read_mask(masks[photo]).shape, photo, size)
    entries, weight = _segmented(config), config.mask.doubtful_photo_weight
    known, excluded = _by_digests(entries), pairs.excluded(shapes, entries)
    for reason in excluded.values():
        logger.warning(f"left out: {reason}")
    instances, doubted = [], dict[Path, str]()
    for photo in (one for one in shapes if one not in excluded):
        mask = masks[photo]
        entry = known.get((files.digest(photo), files.digest(mask)))
        if entry is None or not entry.doubted:
            instances.append(replace(plain[photo], mask=mask))
        elif weight > 0:
            instances.append(replace(plain[photo], mask=mask, weight=weight))
        else:
            doubted[photo] = pairs.doubt(photo, entry)
    if not instances and not doubted:
        raise UserError("every photo was excluded in review; approve some with `persam-dreambooth review`")
    if not instances:
        raise UserError(
            f"segmentation is sure of the subject in none of the photos ({'; '.join(doubted.values())}); look at the "
            "contact sheet, and train on them all the same with --doubtful_photo_weight 1"
        )
    for reason in doubted.values():
        logger.warning(f"left out: {reason}; --doubtful_photo_weight trains on it")
    return instances, left_out | excluded | doubted


def _prompt(photo: Path, config: TrainingConfig) -> str:
    """What a photo is trained on as: the words beside it, or the subject's prompt."""
    caption = photo.with_suffix(config.data.caption_extension) if config.data.caption_extension else None
    if caption is not None and caption.is_file():
        try:
            words = " ".join(caption.read_text(encoding="utf-8-sig").split())
        except (OSError, ValueError) as error:
            raise UserError(f"the caption {caption} cannot be read ({error}); write it as UTF-8 text") from error
        if words:
            return words
    if not config.data.instance_prompt:
        raise UserError(f"{photo.name} has no caption {caption}; write one, or give --instance_prompt for such photos")
    return config.data.instance_prompt


def _segmented(config: TrainingConfig) -> list[ManifestEntry]:
    """What `persam-dreambooth segment` wrote of each photo and mask."""
    if not config.mask.masked_loss or not (mask_folder(config).parent / SETTINGS_NAME).exists():
        return []
    return newest_entries(mask_folder(config).parent / MANIFEST_NAME)


def _by_digests(entries: Sequence[ManifestEntry]) -> dict[tuple[str, str | None], ManifestEntry]:
    """Entries by what they are about, whatever the files are called."""
    return {(entry.digest, entry.mask_digest): entry for entry in entries}


def mask_folder(config: TrainingConfig) -> Path:
    """Where the masks lie; a folder that `persam-dreambooth segment` wrote has them one deeper.

    Raises:
        UserError: no such folder.
    """
    if config.mask.reference_image:
        return _segmentation(config) / "masks"
    return pairs.mask_folder(Path(str(config.mask.instance_mask_dir)), "--instance_mask_dir")


def _segmentation(config: TrainingConfig) -> Path:
    """Where the masks go that are made by a reference; of several subjects each has a folder there."""
    return Path(config.output.output_dir) / SEGMENTATION_FOLDER / concepts.folder_name(config)


def describe(
    instances: Sequence[InstancePhoto], left_out: dict[Path, str], config: TrainingConfig
) -> list[ManifestEntry]:
    """The lines of the output's `manifest.jsonl`: each photo, its mask, and what segmentation said of that mask.

    Raises:
        UserError: the masks' own manifest is damaged.
    """
    output = Path(config.output.output_dir)
    known = _by_digests(_segmented(config))
    lines = [
        ManifestEntry(relative_path(photo, output), files.digest(photo), error=reason)
        for photo, reason in left_out.items()
    ]
    for instance in instances:
        photo = files.digest(instance.photo)
        mask = None if instance.mask is None else files.digest(instance.mask)
        entry = known.get((photo, mask)) or ManifestEntry("", photo, mask_digest=mask, source="given")
        mask_path = None if instance.mask is None else relative_path(instance.mask, output)
        lines.append(replace(entry, photo=relative_path(instance.photo, output), mask=mask_path, overlay=None))
    return sorted(lines, key=lambda entry: entry.photo)


def _readable(photos: Sequence[Path]) -> tuple[dict[Path, tuple[int, int]], dict[Path, str]]:
    """The photos that can be decoded, with their upright (width, height) in pixels; the others, with the reason."""
    sizes: dict[Path, tuple[int, int]] = {}
    left_out: dict[Path, str] = {}
    for photo in photos:
        try:
            sizes[photo] = files.read_photo(photo).size
        except UserError as error:
            left_out[photo] = str(error)
            logger.warning(f"left out: {error}")
    if not sizes:
        raise UserError(f"none of the {len(photos)} photos can be decoded: {next(iter(left_out.values()))}")
    return sizes, left_out
