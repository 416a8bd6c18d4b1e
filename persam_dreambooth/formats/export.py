"""Export photos and masks, from segmentation or two folders, to a trainer's folder, completely or not at all."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from persam_dreambooth.atomic_io import UNFINISHED, replacing, replacing_folder
from persam_dreambooth.errors import UserError, counted
from persam_dreambooth.formats.layouts import Folders
from persam_dreambooth.formats.masked_photos import CAPTION, MaskedPhoto, foreign, read_caption, refuse
from persam_dreambooth.formats.table import Convention
from persam_dreambooth.masks import Looks
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, newest_entries
from persam_dreambooth.photos.pairs import check_size, find_exclusions, find_masks, mask_folder, photos_to_leave_out
from persam_dreambooth.text_files import is_text


@dataclass(frozen=True)
class Pair:
    """Paths of a photo and its mask, and the photo's caption."""

    photo: Path
    mask: Path
    caption: str | None


@dataclass(frozen=True)
class Selection:
    """The photos to export, and those left out.

    Attributes:
        pairs: sorted by the photos' names.
        left_out: photos that segmentation could not read, that a person excluded, or in which segmentation is
            uncertain of the subject, each with the reason.
    """

    pairs: list[Pair]
    left_out: dict[Path, str]

    def exclusion_words(self) -> list[str]:
        """Warn of exclusion masks beside the masks, which no trainer's layout can hold; empty if there are none."""
        folders = dict.fromkeys(pair.mask.parent for pair in self.pairs)
        photos = [pair.photo for pair in self.pairs]
        count = sum(len(find_exclusions(photos, folder)) for folder in folders)
        return [f"{counted(count, 'exclusion mask')} left out: only training here reads them"] if count else []

    def unread_words(self, besides: tuple[Path, ...]) -> list[str]:
        """Report skipped files in the photos' folders, one line per folder; see `files.unread_words`."""
        folders = dict.fromkeys(pair.photo.parent for pair in self.pairs)
        return [words for folder in folders if (words := files.unread_words(files.unread_files(folder, besides)))]


def read_selection(
    masks: Path, images: Path | None = None, caption_extension: str = CAPTION, include_uncertain: bool = False
) -> Selection:
    """Pair photos and masks as training does.

    Args:
        masks: folder of masks with their photos' names, or the folder that `persam-dreambooth segment` wrote.
        images: folder of photos; None takes those in segmentation's manifest.
        caption_extension: suffix of the text files beside the photos.
        include_uncertain: keep photos in which segmentation is uncertain of the subject.

    Raises:
        UserError: no such folder; photos without masks, masks without photos, clashing names, pictures in unsupported
            formats or missing photos, all listed in one message; or nothing is left.
    """
    folder = mask_folder(masks, "--masks")
    manifest = folder.parent / MANIFEST_NAME
    entries = newest_entries(manifest)
    photos = _photos(images, entries, manifest)
    found = find_masks(folder, photos)
    left_out = photos_to_leave_out(photos, found, entries, include_uncertain)
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
    return Selection(pairs, left_out)


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


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        count: number of photos.
        without_words: names of the photos without a caption.
        snippet: configuration for the trainer; empty if it needs none.
        config: where the snippet is saved.
        warnings: about masks that look wrong.
        left_out: why photos were left out, one sentence each.
        unread: files skipped in the photos' folders, one line per folder.
    """

    count: int
    without_words: list[str] = field(default_factory=list)
    snippet: str = ""
    config: Path | None = None
    warnings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def export_folder(
    chosen: Selection, convention: Convention, output: Path, instance_prompt: str | None = None
) -> Exported:
    """Write photos, masks, captions and the configuration into a new folder.

    Args:
        chosen: the photos and masks to export.
        convention: the trainer's convention.
        output: must be absent or empty.
        instance_prompt: caption for photos without one.

    Raises:
        UserError: the folder is not empty, lies among the photos, or has a path that no configuration can contain;
            photos or masks that cannot be decoded, masks of another size, or names that the trainer reserves, all
            listed in one message.
    """
    refuse_used(output, {pair.photo.parent for pair in chosen.pairs} | {pair.mask.parent for pair in chosen.pairs})
    layout, lines, problems, looks = convention.layout, [], list[str](), Looks()
    snippet, without_words = convention.configured(output.resolve()), []
    _refuse_unwritable(snippet, output)
    with replacing_folder(output) as folder:
        for pair in tqdm(chosen.pairs, desc="Exporting", unit="photo", delay=2):
            try:
                masked = read_masked_photo(pair, instance_prompt)
                lines.append(layout.add(masked, folder))
                looks.add(pair.mask.name, masked.mask)
            except UserError as error:
                problems.append(str(error))
                continue
            if masked.caption is None:
                without_words.append(pair.photo.name)
        refuse(problems, f"the photos cannot be exported for {convention.title}")
        layout.close(lines, folder)
        if snippet:
            (folder / convention.config).write_text(snippet, encoding="utf-8")
    config = output / convention.config if snippet else None
    warnings = [*looks.warnings(), *chosen.exclusion_words()]
    return Exported(len(lines), without_words, snippet, config, warnings)


def refuse_used(output: Path, sources: set[Path]) -> None:
    """Raise a UserError unless the output is empty or absent, can be created, and lies outside the source folders."""
    files.check_output_folder(output)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; choose another --output or empty this one")
    here = output.resolve()
    around = [folder for folder in sources if folder.resolve() in (here, *here.parents)]
    if around:
        raise UserError(f"{output} lies in {around[0]}, which is not written to; choose another --output")


def read_masked_photo(pair: Pair, instance_prompt: str | None = None) -> MaskedPhoto:
    """Read a photo and its mask.

    Raises:
        UserError: one cannot be decoded, their sizes differ, or the name is not UTF-8.
    """
    if not is_text(pair.photo.name):
        raise UserError(f"{pair.photo.name} has bytes in its name that are not UTF-8; rename it")
    image, levels = files.read_photo(pair.photo), files.read_levels(pair.mask)
    check_size(pair.mask, levels.shape, pair.photo, image.size)
    return MaskedPhoto(pair.photo, image, levels, pair.caption or instance_prompt)


def _refuse_unwritable(snippet: str, folder: Path) -> None:
    """Raise a UserError for a configuration that contains a path that is not UTF-8."""
    if not is_text(snippet):
        raise UserError(
            f"the path of {folder} has bytes that are not UTF-8; rename it, since a configuration names it"
        )


def export_beside(chosen: Selection, convention: Convention) -> Exported:
    """Write masks beside the photos, which stay untouched, and then the configuration; all of it or nothing.

    If an export was killed, the next one keeps the masks that were already written and adds the rest.

    Raises:
        UserError: the trainer does not look there; another file of the same name exists; a photo would be left
            without a mask, so that the trainer would train on all of it; or as `export_folder`.
    """
    layout = convention.layout
    if not convention.beside or not isinstance(layout, Folders):
        raise UserError(f"{convention.title} does not look for masks beside photos; give a new folder as --output")
    targets = _targets(chosen, layout)
    folder = next(iter(targets.values())).parent
    config, snippet = folder / convention.config, convention.configured_beside(folder.resolve())
    _refuse_unwritable(snippet, folder)
    others = [photo.name for photo in files.list_photos(folder) if photo not in targets]
    bare = [name for name in others if not name.endswith(files.NO_PHOTOS)]
    if bare:
        raise UserError(
            f"{convention.title} trains on all of a photo that has no mask: {', '.join(bare)}; remove them from the "
            "folder, keep uncertain ones with --include_uncertain, or export to a new folder with --output"
        )
    looks = _write_beside(chosen, targets, config, snippet)
    without_words = [pair.photo.name for pair in chosen.pairs if pair.caption is None]
    warnings = [*looks.warnings(), *chosen.exclusion_words()]
    return Exported(len(chosen.pairs), without_words, snippet, config, warnings)


def _write_beside(chosen: Selection, targets: dict[Path, Path], config: Path, snippet: str) -> Looks:
    problems, looks, waiting = [], Looks(), dict[Path, Path]()
    # Written to a folder of their own first: OneTrainer would take loose files left by a killed process for photos.
    with TemporaryDirectory(prefix=UNFINISHED, dir=config.parent) as beside:
        for pair in tqdm(chosen.pairs, desc="Exporting", unit="photo", delay=2):
            target = targets[pair.photo]
            try:
                masked = read_masked_photo(pair)
            except UserError as error:
                problems.append(str(error))
                continue
            looks.add(pair.mask.name, masked.mask)
            if not os.path.lexists(target):
                waiting[target] = Path(beside) / target.name
                files.write_mask(masked.levels, waiting[target])
            elif not _holds(target, masked.levels):
                problems.append(f"{target} already exists")
        written = os.path.lexists(config)
        if written and not (config.is_file() and config.read_bytes() == snippet.encode()):
            problems.append(f"{config} already exists")
        refuse(problems, "the masks cannot be put beside the photos")
        for target, temporary in waiting.items():
            temporary.replace(target)
    if not written:
        with replacing(config) as temporary:
            temporary.write_text(snippet, encoding="utf-8")
    return looks


def _holds(path: Path, levels: NDArray[np.uint8]) -> bool:
    """Return whether a file holds exactly this mask."""
    try:
        return np.array_equal(files.read_levels(path), levels)
    except UserError:
        return False


def _targets(chosen: Selection, layout: Folders) -> dict[Path, Path]:
    """Return the path of each photo's mask, in the one folder of the photos."""
    folders = {str(pair.photo.parent) for pair in chosen.pairs}
    if len(folders) > 1:
        raise UserError(f"the photos are in several folders ({', '.join(sorted(folders))}); give one as --images")
    targets, problems = {}, []
    for pair in chosen.pairs:
        try:
            targets[pair.photo] = pair.photo.with_name(layout.mask_name(pair.photo))
        except UserError as error:
            problems.append(str(error))
    refuse(problems, "the masks cannot be put beside the photos")
    return targets
