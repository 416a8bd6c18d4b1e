"""Find the photos to train on and their masks, check them, and describe them for the manifest; no model is loaded."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, pairs
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, newest_entries, relative_path
from persam_dreambooth.photos.repeated import PhotoFolder, repeated_folders
from persam_dreambooth.preprocessing import SETTINGS_NAME, SegmentationJob, segment_folder
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data import concepts
from persam_dreambooth.training.data.buckets import nearest_bucket
from persam_dreambooth.training.data.crops import Size
from persam_dreambooth.training.data.dataset import InstancePhoto
from persam_dreambooth.training.screen import warn
from persam_dreambooth.words import counted, listed

SEGMENTATION_FOLDER = "segmentation"


def segment_first(config: TrainingConfig, device: torch.device) -> None:
    """Make the masks in the output folder if the user gave a reference instead of masks.

    To be called by one process, before the others look for the masks.
    """
    mask = config.mask
    if not (mask.masked_loss and mask.reference_image and mask.reference_mask):
        return
    reference = ReferenceFiles(Path(mask.reference_image), Path(mask.reference_mask))
    for folder in photo_folders(config):
        output = _segmentation(config) / folder.name
        segment_folder(SegmentationJob(folder.path, (reference,), output, mask.sam, device=str(device)))


def photo_folders(config: TrainingConfig) -> list[PhotoFolder]:
    """Return the folders of a subject's photos: the given one or, if it has no photos, kohya's folders inside it."""
    given = Path(str(config.data.instance_data_dir))
    inside = repeated_folders(given)
    return inside if inside and not files.list_photos(given) else [PhotoFolder(given)]


def find_instances(config: TrainingConfig, sizes: Sequence[Size]) -> tuple[list[InstancePhoto], dict[Path, str]]:
    """Find the photos to train on and their masks.

    Args:
        config: one subject's.
        sizes: of crops; each photo gets the nearest one.

    Returns:
        The photos with their masks, sorted by name; and the photos that are left out, with the reason: they
        cannot be decoded, a person excluded them in review, or segmentation is unsure of the subject (and no
        person approved the mask). Each of them causes a warning.

    Raises:
        UserError: no photo, none readable, all doubted or excluded; masks missing, clashing, of another size
            than their photo, or identical to the photos.
    """
    plain, shapes, left_out = _without_masks(config, sizes)
    if not config.mask.masked_loss:
        return list(plain.values()), left_out
    groups = _by_mask_folder(shapes, config)
    masks = {photo: mask for folder, photos in groups.items() for photo, mask in pairs.pair(photos, folder).items()}
    for folder, photos in groups.items():
        _say(pairs.unpaired_words([*photos, *left_out], folder))
    for photo, size in shapes.items():
        pairs.check_size(masks[photo], files.read_mask(masks[photo]).shape, photo, size)
    known, excluded = dict[tuple[str, str | None], ManifestEntry](), dict[Path, str]()
    for folder, photos in groups.items():
        entries = _segmented(folder)
        pairs.refuse_changed(photos, {photo.stem: masks[photo] for photo in photos}, entries)
        known |= _by_digests(entries)
        excluded |= pairs.excluded(photos, entries)
    weight = config.mask.uncertain_photo_weight
    for photo, reason in excluded.items():
        warn(f"left out{_of_folder(photo, config)}: {reason}")
    instances, doubted = [], dict[Path, str]()
    for photo in (path for path in shapes if path not in excluded):
        mask = masks[photo]
        entry = known.get((files.digest(photo), files.digest(mask)))
        if entry is None:
            _say(pairs.turned_words(mask, photo))
        if entry is None or not entry.uncertain:
            instances.append(replace(plain[photo], mask=mask))
        elif weight > 0:
            instances.append(replace(plain[photo], mask=mask, weight=weight))
        else:
            doubted[photo] = pairs.doubt(photo, entry)
    if not instances and not doubted:
        raise UserError("every photo was excluded in review; approve some with `persam-dreambooth review`")
    if not instances:
        raise UserError(
            f"segmentation is not sure of the subject in any photo ({'; '.join(doubted.values())}); look at the "
            "contact sheet, and train on them anyway with --uncertain_photo_weight 1"
        )
    for photo, reason in doubted.items():
        warn(f"left out{_of_folder(photo, config)}: {reason}; --uncertain_photo_weight trains on it")
    return instances, left_out | excluded | doubted


def _say(words: str) -> None:
    if words:
        warn(words)


def _other_folders(config: TrainingConfig) -> list[Path]:
    """Return folders that may lie among the photos but hold something else."""
    given = (config.output.output_dir, config.mask.instance_mask_dir, config.data.class_data_dir)
    return [Path(folder) for folder in given if folder]


def _without_masks(
    config: TrainingConfig, sizes: Sequence[Size]
) -> tuple[dict[Path, InstancePhoto], dict[Path, tuple[int, int]], dict[Path, str]]:
    """Return the readable photos without masks, their (width, height), and the other files with the reason."""
    besides = (Path(config.mask.reference_mask),) if config.mask.reference_mask else ()
    folders = {photo: folder for folder in photo_folders(config) for photo in files.find_photos(folder.path, besides)}
    unread = _unread(config, besides)
    _say(files.unread_words(unread))
    shapes, left_out = _readable(list(folders))
    plain = {
        photo: InstancePhoto(
            photo,
            None,
            nearest_bucket((height, width), sizes),
            _prompt(photo, config, folders[photo].words),
            repeats=folders[photo].repeats,
            label=_name(photo, config),
        )
        for photo, (width, height) in shapes.items()
    }
    _remark(plain, shapes, config)
    return plain, shapes, left_out | unread


def _unread(config: TrainingConfig, besides: Sequence[Path]) -> dict[Path, str]:
    """Return the files in the given folder, and in kohya's folders inside it, that are not trained on, and why."""
    given, inside = Path(str(config.data.instance_data_dir)), [folder.path for folder in photo_folders(config)]
    known = (*besides, *_other_folders(config), *inside)
    return {path: reason for folder in {given, *inside} for path, reason in files.unread_files(folder, known).items()}


def _by_mask_folder(photos: Iterable[Path], config: TrainingConfig) -> dict[Path, list[Path]]:
    """Group the photos by the folder of their masks; refuse two photos that would share a mask."""
    folders = {inner.path: mask_folder(config, inner) for inner in photo_folders(config)}
    groups = defaultdict[Path, dict[str, Path]](dict)
    for photo in photos:
        folder = folders[photo.parent]
        other = groups[folder].setdefault(photo.stem, photo)
        if other != photo:
            raise UserError(
                f"{_name(other, config)} and {_name(photo, config)} would share one mask of {folder}; put the masks "
                "into folders with the same names as the photos' folders"
            )
    return {folder: list(group.values()) for folder, group in groups.items()}


def _name(photo: Path, config: TrainingConfig) -> str:
    """Return a photo's path inside the given folder, with several subjects after that folder's name."""
    inside = photo.relative_to(Path(str(config.data.instance_data_dir)))
    return str(Path(concepts.folder_name(config)) / inside)


def _of_folder(photo: Path, config: TrainingConfig) -> str:
    """Return " of FOLDER" for a photo if there are several folders, for a message; else an empty string."""
    folder = Path(_name(photo, config)).parent
    return "" if folder == Path() else f" of {folder}"


def _remark(
    plain: Mapping[Path, InstancePhoto], shapes: Mapping[Path, tuple[int, int]], config: TrainingConfig
) -> None:
    """Warn of missing captions, and of photos that are smaller than their crops."""
    ending = config.data.caption_extension
    if ending and not any(photo.with_suffix(ending).is_file() for photo in plain):
        warn(f"no photo in {config.data.instance_data_dir} has a caption that ends in {ending}")
    small = [
        f"{instance.name} ({width} x {height})"
        for photo, instance in plain.items()
        for width, height in [shapes[photo]]
        if height < instance.size[0] or width < instance.size[1]
    ]
    if small:
        verb = "is" if len(small) == 1 else "are"
        warn(
            f"{len(small)} of {counted(len(plain), 'photo')} {verb} smaller than --resolution "
            f"{config.data.resolution} and will be enlarged: {listed(small)}"
        )


def _prompt(photo: Path, config: TrainingConfig, words: str) -> str:
    """Return a photo's prompt: its caption, or the subject's prompt, or the words in its folder's name."""
    caption = photo.with_suffix(config.data.caption_extension) if config.data.caption_extension else None
    if caption is not None and caption.is_file():
        try:
            words = " ".join(caption.read_text(encoding="utf-8-sig").split())
        except (OSError, ValueError) as error:
            raise UserError(f"the caption {caption} cannot be read ({error}); write it as UTF-8 text") from error
        if words:
            return words
    prompt = config.data.instance_prompt or words
    if not prompt:
        raise UserError(
            f"{photo} has no caption {caption}; write one, or give --instance_prompt for photos without one"
        )
    return prompt


def _segmented(folder: Path) -> list[ManifestEntry]:
    """Return the manifest entries that `persam-dreambooth segment` wrote for a folder of masks; none for others."""
    run = folder.parent
    return newest_entries(run / MANIFEST_NAME) if (run / SETTINGS_NAME).exists() else []


def _by_digests(entries: Sequence[ManifestEntry]) -> dict[tuple[str, str | None], ManifestEntry]:
    """Index entries by the digests of photo and mask, whatever the files are called."""
    return {(entry.digest, entry.mask_digest): entry for entry in entries}


def mask_folder(config: TrainingConfig, folder: PhotoFolder) -> Path:
    """Return the folder of the masks of a folder of photos; for a folder that `segment` wrote, its subfolder `masks`.

    Masks of kohya's folders lie in folders of the same names or, without such a folder, all in one.

    Raises:
        UserError: no such folder.
    """
    if config.mask.reference_image:
        return _segmentation(config) / folder.name / "masks"
    given = pairs.mask_folder(Path(str(config.mask.instance_mask_dir)), "--instance_mask_dir")
    own = given / folder.name
    return pairs.mask_folder(own, "--instance_mask_dir") if folder.name and own.is_dir() else given


def _segmentation(config: TrainingConfig) -> Path:
    """Return the folder for masks that are made from a reference; with several subjects each has its own."""
    return Path(config.output.output_dir) / SEGMENTATION_FOLDER / concepts.folder_name(config)


def describe(
    instances: Sequence[InstancePhoto], left_out: dict[Path, str], config: TrainingConfig
) -> list[ManifestEntry]:
    """Return the entries of the output's `manifest.jsonl`: each photo, its mask, and segmentation's scores for it.

    Raises:
        UserError: the manifest of the masks is damaged.
    """
    output = Path(config.output.output_dir)
    folders = {mask_folder(config, folder) for folder in photo_folders(config)} if config.mask.masked_loss else set()
    known = _by_digests([entry for folder in folders for entry in _segmented(folder)])
    lines = [
        ManifestEntry(relative_path(photo, output), files.digest(photo) if files.is_photo(photo) else "", error=reason)
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
    """Return the readable photos with their upright (width, height) in pixels; and the others, with the reason."""
    sizes: dict[Path, tuple[int, int]] = {}
    left_out: dict[Path, str] = {}
    for photo in photos:
        try:
            sizes[photo] = files.read_photo(photo).size
        except UserError as error:
            left_out[photo] = str(error)
            warn(f"left out: {error}")
    if not sizes:
        which = f"none of the {len(photos)} photos can" if len(photos) > 1 else "the only photo cannot"
        raise UserError(f"{which} be decoded: {next(iter(left_out.values()))}")
    return sizes, left_out
