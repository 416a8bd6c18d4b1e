"""Find and check the photos to train on and their masks, and describe them for the manifest; loads no model."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from persam_dreambooth.errors import UserError, counted, listed
from persam_dreambooth.photos import files, pairs
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, newest_entries, relative_path
from persam_dreambooth.preprocessing import SETTINGS_NAME
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data.caption_check import check_phrases
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.data.crops import Size, nearest_bucket
from persam_dreambooth.training.data.dataset import InstancePhoto, Region
from persam_dreambooth.training.data.mask_folders import exclusion_masks, mask_folder, photo_folders, phrases
from persam_dreambooth.training.screen import warn

Digests = tuple[str, str | None]
"""SHA-256 of a photo and of its mask."""


@dataclass(frozen=True)
class FoundPhotos:
    """A subject's photos.

    Attributes:
        instances: those to train on, sorted by name.
        left_out: the others, with the reason: they cannot be decoded, a person excluded them in review, or
            segmentation is unsure of the subject (and no person approved the mask).
        manifest: lines of the output's `manifest.jsonl`: each photo and mask, and segmentation's scores for it.
    """

    instances: list[InstancePhoto]
    left_out: dict[Path, str]
    manifest: list[ManifestEntry]


def find_instances(concept: Concept, config: TrainingConfig, sizes: Sequence[Size]) -> FoundPhotos:
    """Find the photos to train on and their masks, and warn of each photo that is left out.

    Photos are decoded here, and photos and masks hashed, each once; the masks are decoded by `check_masks`.

    Args:
        concept: the subject.
        config: the run's settings.
        sizes: of crops; each photo gets the nearest one.

    Raises:
        UserError: no photo, none readable, or all uncertain or excluded; masks missing, clashing or identical to the
            photos; a photo that has changed since its mask was made; a damaged manifest of the masks.
    """
    digest = cache(files.digest)
    plain, left_out = _without_masks(concept, config, sizes)
    if not config.mask.masked_loss:
        return FoundPhotos(
            list(plain.values()), left_out, _manifest(list(plain.values()), left_out, {}, config, digest)
        )
    masks, known, excluded = _masks(plain, left_out, concept, config, digest)
    for photo, reason in excluded.items():
        warn(f"left out{_of_folder(photo, concept)}: {reason}")
    weight, instances = config.mask.uncertain_photo_weight, list[InstancePhoto]()
    uncertain, without = dict[Path, str](), dict[Path, str]()
    for photo in (path for path in plain if path not in excluded):
        regions, reason = _regions(photo, masks[photo], known, digest)
        if not regions:
            without[photo] = f"{photo.name} shows none of the subjects of --region_mask_dir"
            warn(f"left out{_of_folder(photo, concept)}: {without[photo]}")
        elif not reason:
            instances.append(replace(plain[photo], regions=regions))
        elif weight > 0:
            instances.append(replace(plain[photo], regions=regions, weight=weight))
        else:
            uncertain[photo] = reason
    if not instances:
        raise UserError(_nothing_left(uncertain, without))
    for instance in instances:
        check_phrases(instance, phrases(concept))
    exclusions = exclusion_masks({photo: [region.mask for region in own] for photo, own in masks.items()}, concept)
    instances = [replace(instance, exclude=exclusions.get(instance.photo)) for instance in instances]
    for photo, reason in uncertain.items():
        warn(f"left out{_of_folder(photo, concept)}: {reason}; --uncertain_photo_weight trains on it")
    left_out |= excluded | uncertain | without
    return FoundPhotos(instances, left_out, _manifest(instances, left_out, known, config, digest))


def _masks(
    plain: Mapping[Path, InstancePhoto],
    left_out: Mapping[Path, str],
    concept: Concept,
    config: TrainingConfig,
    digest: Callable[[Path], str],
) -> tuple[Mapping[Path, Sequence[Region]], dict[Digests, ManifestEntry], dict[Path, str]]:
    """Return the photos' masks, what segmentation wrote about them, and the photos that a person excluded, and why."""
    known, excluded = dict[Digests, ManifestEntry](), dict[Path, str]()
    masks: dict[Path, list[Region]] = {photo: [] for photo in plain}
    for phrase in phrases(concept):
        for folder, photos in _by_mask_folder(plain, concept, config, phrase).items():
            own = pairs.pair(photos, folder, all_of_them=not phrase)
            _warn(pairs.unpaired_words([*photos, *left_out], folder))
            entries = _segmented(folder)
            pairs.refuse_changed(photos, {photo.stem: mask for photo, mask in own.items()}, entries, digest)
            excluded |= pairs.excluded(photos, entries)
            known |= {(entry.digest, entry.mask_digest): entry for entry in entries}
            for photo, mask in own.items():
                masks[photo].append(Region(mask, phrase))
    return masks, known, excluded


def _regions(
    photo: Path, regions: Sequence[Region], known: Mapping[Digests, ManifestEntry], digest: Callable[[Path], str]
) -> tuple[tuple[Region, ...], str]:
    """Return those of a photo's regions that it shows, and why segmentation is unsure of one of these, or "".

    A subject that has a phrase, and so is one of several, may be absent; the only one may not.
    """
    shown, reason = list[Region](), ""
    for region in regions:
        entry = known.get((digest(photo), digest(region.mask)))
        if entry is None:
            _warn(pairs.turned_words(region.mask, photo))
        elif region.phrase and _is_absent(entry):
            continue
        elif entry.uncertain:
            reason = reason or pairs.uncertainty(photo, entry)
        shown.append(region)
    return tuple(shown), reason


def _is_absent(entry: ManifestEntry) -> bool:
    """Return whether segmentation did not find the subject, or left it no pixel beside the other subjects."""
    return (entry.uncertain and entry.presence == "not found") or (entry.was_found and entry.box is None)


def _nothing_left(uncertain: Mapping[Path, str], without: Mapping[Path, str]) -> str:
    if without and not uncertain:
        return f"no photo has a mask ({'; '.join(without.values())}); name the masks like the photos"
    if not uncertain:
        return "every photo was excluded in review; approve some with `persam-dreambooth review`"
    return (
        f"segmentation is not sure of the subject in any photo ({'; '.join(uncertain.values())}); look at the contact "
        "sheet, and train on them anyway with --uncertain_photo_weight 1"
    )


def _warn(words: str) -> None:
    if words:
        warn(words)


def _other_folders(concept: Concept, config: TrainingConfig) -> list[Path]:
    """Return folders that may lie among the photos but hold something else."""
    given = (config.output.output_dir, concept.masks, concept.regions, concept.excluded, concept.class_folder)
    return [Path(folder) for folder in given if folder]


def _without_masks(
    concept: Concept, config: TrainingConfig, sizes: Sequence[Size]
) -> tuple[dict[Path, InstancePhoto], dict[Path, str]]:
    """Return the readable photos without masks, and the other files with the reason."""
    drawn = concept.reference[1:] if concept.reference else ()
    folders = {photo: folder for folder in photo_folders(concept) for photo in files.find_photos(folder.path, drawn)}
    unread = _unread(concept, config, drawn)
    _warn(files.unread_words(unread))
    shapes, left_out = _readable(list(folders))
    plain = {
        photo: InstancePhoto(
            photo,
            (),
            nearest_bucket((height, width), sizes),
            (height, width),
            concept.prompt_of(photo, folders[photo].words),
            repeats=folders[photo].repeats * config.data.repeats,
            label=_name(photo, concept),
        )
        for photo, (width, height) in shapes.items()
    }
    _remark(list(plain.values()), concept, config)
    return plain, left_out | unread


def _unread(concept: Concept, config: TrainingConfig, drawn: Sequence[Path]) -> dict[Path, str]:
    """Return the files in the given folder, and in kohya's folders inside it, that are not trained on, and why."""
    inside = [folder.path for folder in photo_folders(concept)]
    known = (*drawn, *_other_folders(concept, config), *inside)
    folders = {concept.photos, *inside}
    return {path: reason for folder in folders for path, reason in files.unread_files(folder, known).items()}


def _by_mask_folder(
    photos: Iterable[Path], concept: Concept, config: TrainingConfig, phrase: str
) -> dict[Path, list[Path]]:
    """Group the photos by the folder of their masks; refuse two photos that would share a mask."""
    folders = {inner.path: mask_folder(concept, config, inner, phrase) for inner in photo_folders(concept)}
    groups = defaultdict[Path, dict[str, Path]](dict)
    for photo in photos:
        folder = folders[photo.parent]
        other = groups[folder].setdefault(photo.stem, photo)
        if other != photo:
            raise UserError(
                f"{_name(other, concept)} and {_name(photo, concept)} would share one mask of {folder}; put the masks "
                "into folders with the same names as the photos' folders"
            )
    return {folder: list(group.values()) for folder, group in groups.items()}


def _name(photo: Path, concept: Concept) -> str:
    """Return a photo's path inside the given folder, with several subjects after that folder's name."""
    return str(Path(concept.name) / photo.relative_to(concept.photos))


def _of_folder(photo: Path, concept: Concept) -> str:
    """Return " of FOLDER" for a photo if there are several folders, for a message; else an empty string."""
    folder = Path(_name(photo, concept)).parent
    return "" if folder == Path() else f" of {folder}"


def _remark(instances: Sequence[InstancePhoto], concept: Concept, config: TrainingConfig) -> None:
    """Warn of missing captions, and of photos that are smaller than their crops."""
    ending = concept.caption_extension
    if ending and not any(instance.photo.with_suffix(ending).is_file() for instance in instances):
        warn(f"no photo in {concept.photos} has a caption that ends in {ending}")
    small = [
        f"{instance.name} ({instance.shape[1]} x {instance.shape[0]})"
        for instance in instances
        if instance.shape[0] < instance.size[0] or instance.shape[1] < instance.size[1]
    ]
    if small:
        verb = "is" if len(small) == 1 else "are"
        warn(
            f"{len(small)} of {counted(len(instances), 'photo')} {verb} smaller than --resolution "
            f"{config.data.resolution} and will be enlarged: {listed(small)}"
        )


def _segmented(folder: Path) -> list[ManifestEntry]:
    """Return the manifest entries that `persam-dreambooth segment` wrote for a folder of masks; none for others."""
    run = folder.parent
    return newest_entries(run / MANIFEST_NAME) if (run / SETTINGS_NAME).exists() else []


def _manifest(
    instances: Sequence[InstancePhoto],
    left_out: Mapping[Path, str],
    known: Mapping[Digests, ManifestEntry],
    config: TrainingConfig,
    digest: Callable[[Path], str],
) -> list[ManifestEntry]:
    """Describe the photos for the output's `manifest.jsonl`.

    Args:
        known: segmentation's entries by the digests of photo and mask, so that renamed files are recognized.
        digest: hashes a file.
    """
    output = Path(config.output.output_dir)
    lines = [
        ManifestEntry(relative_path(photo, output), digest(photo) if files.is_photo(photo) else "", error=reason)
        for photo, reason in left_out.items()
    ]
    for instance in instances:
        photo = digest(instance.photo)
        for region in instance.regions or (None,):
            path = None if region is None else region.mask
            mask = None if path is None else digest(path)
            entry = known.get((photo, mask)) or ManifestEntry("", photo, mask_digest=mask, source="given")
            mask_path = None if path is None else relative_path(path, output)
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
