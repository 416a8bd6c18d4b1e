"""The subjects (concepts) of a run: one from the flags, or several from `--concepts_list`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.photos.listing import repeated_folders
from persam_dreambooth.text_files import can_name_a_file, read_yaml
from persam_dreambooth.training.config import PATHS, DataConfig, MaskConfig, TrainingConfig
from persam_dreambooth.training.data import dataset_copy

KEYS = (
    "instance_data_dir",
    "instance_prompt",
    "caption_extension",
    "class_data_dir",
    "class_prompt",
    "num_class_images",
    "instance_mask_dir",
    "region_mask_dir",
    "exclude_mask_dir",
    "reference_image",
    "reference_mask",
    "identifier",
)
"""Keys of an entry of `--concepts_list`, named as the flags."""

LONGEST, LARGEST = 100, 31
"""Maximum number of characters of a value in a message; maximum number of bits of a number."""


@dataclass(frozen=True)
class Concept:
    """A subject: its prompts, and where its photos, masks and class images are.

    Attributes:
        photos: folder of its photos.
        prompt: instance prompt; None if every photo has a caption or kohya's folders name it.
        caption_extension: suffix of the captions beside the photos; None if they are not read.
        excluded: folder of its exclusion masks; None looks for them beside the masks.
        masks: folder of its masks; None if they are elsewhere, made from `reference`, or if there are none.
        regions: folder with a folder of masks for each of several subjects in the same photos, instead of `masks`.
        reference: a photo and its mask, from which the other masks are made.
        class_prompt: prompt of its class images and of the background prior.
        class_folder: folder of its class images; it may be given although they are not used.
        num_class_images: number of class images to train with; 0 without prior preservation.
        identifier: word that names it in the prompts, for the attention loss.
        name: name for its files in a run with several subjects; empty in a run with one.
    """

    photos: Path
    prompt: str | None
    caption_extension: str | None
    masks: Path | None
    regions: Path | None
    excluded: Path | None
    reference: tuple[Path, Path] | None
    class_prompt: str | None
    class_folder: Path | None
    num_class_images: int
    identifier: str | None
    name: str

    @classmethod
    def of(cls, config: TrainingConfig) -> Self:
        """Build the subject from settings that describe a single one."""
        data, mask = config.data, config.mask
        photos = Path(str(data.instance_data_dir))
        reference = (mask.reference_image, mask.reference_mask)
        return cls(
            photos=photos,
            prompt=data.instance_prompt or _folder_prompt(photos, data),
            caption_extension=data.caption_extension,
            masks=Path(mask.instance_mask_dir) if mask.instance_mask_dir else None,
            regions=Path(mask.region_mask_dir) if mask.region_mask_dir else None,
            excluded=Path(mask.exclude_mask_dir) if mask.exclude_mask_dir else None,
            reference=(Path(reference[0]), Path(reference[1])) if reference[0] and reference[1] else None,
            class_prompt=data.class_prompt,
            class_folder=Path(data.class_data_dir) if data.class_data_dir else None,
            num_class_images=data.num_class_images if data.with_prior_preservation else 0,
            identifier=mask.identifier,
            name=photos.resolve().name if data.concepts_list else "",
        )

    def prompt_of(self, photo: Path, words: str = "") -> str:
        """Return a photo's prompt: its caption, or the subject's prompt, or the words in its folder's name.

        Raises:
            UserError: there is none of them, or the caption cannot be read.
        """
        caption = photo.with_suffix(self.caption_extension) if self.caption_extension else None
        if caption is not None and caption.is_file():
            try:
                text = " ".join(caption.read_text(encoding="utf-8-sig").split())
            except (OSError, ValueError) as error:
                raise UserError(
                    f"the caption {caption} cannot be read ({first_line(error)}); write it as UTF-8 text"
                ) from error
            if text:
                return text
        prompt = self.prompt or words
        if not prompt:
            raise UserError(
                f"{photo} has no caption {caption}; write one, or give --instance_prompt for photos without one"
            )
        return prompt


def read_concepts(config: TrainingConfig) -> list[Concept]:
    """Return the subjects with their photos, prompts and masks.

    Args:
        config: the run's; its values are the defaults for the entries of `--concepts_list`. With a data set, the
            result points to the copy that is trained on, whether or not it exists yet.

    Returns:
        At least one.

    Raises:
        UserError: the file cannot be read, an entry lacks a key or has an unknown one, or two entries have
            photo folders of the same name.
    """
    if config.data.dataset_name:
        return [Concept.of(dataset_copy.local(config))]
    if not config.data.concepts_list:
        return [Concept.of(config)]
    path = Path(config.data.concepts_list)
    entries = read_yaml(path, "list of subjects")  # reads JSON too
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"--concepts_list {path} must be a list of entries, each with instance_data_dir and so on")
    concepts = [
        _concept(config, entry, f"entry {number} of {path}", path.parent)
        for number, entry in enumerate(entries, start=1)
    ]
    names = [concept.name for concept in concepts]
    if len(set(names)) < len(names):
        raise UserError(
            f"two entries of {path} have photo folders of the same name ({', '.join(names)}); rename one, since "
            "results are named after them"
        )
    _refuse_shared_class_folders(concepts, path)
    if not any(concept.reference for concept in concepts):
        config.mask.refuse_segmentation()
    return concepts


def _folder_prompt(photos: Path, data: DataConfig) -> str | None:
    """Return the prompt in the names of kohya's folders, if there are no captions and all folders have the same."""
    words = set() if data.caption_extension else {folder.words for folder in repeated_folders(photos)}
    return words.pop() if len(words) == 1 else None


def _refuse_shared_class_folders(concepts: Sequence[Concept], path: Path) -> None:
    """Refuse a folder of class images that is shared by two different class prompts."""
    prompts: dict[Path, str | None] = {}
    for concept in concepts:
        folder = concept.class_folder if concept.num_class_images else None
        if folder and prompts.setdefault(folder.resolve(), concept.class_prompt) != concept.class_prompt:
            raise UserError(
                f"two entries of {path} share the class_data_dir {folder} but have different class_prompts; give each "
                "its own folder"
            )


def _found(name: str, beside: Path) -> str:
    """Resolve a path against the working folder or, if nothing is there, against the folder of the list."""
    return name if Path(name).exists() or not (beside / name).exists() else str(beside / name)


def _short(value: Any) -> str:
    """Return the repr of a value for a message, cut if it is long."""
    if isinstance(value, int) and value.bit_length() > LARGEST:
        return "a number this large"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _concept(config: TrainingConfig, entry: dict[str, Any], where: str, beside: Path) -> Concept:
    """Build a subject from an entry of the list; the run's values are the defaults, and the flags' checks apply."""
    unknown = set(entry) - set(KEYS)
    if unknown:
        raise UserError(f"{where} has an unknown key {min(map(_short, unknown))}; known: {', '.join(KEYS)}")
    for key, value in entry.items():
        # bool is a subclass of int, but not a number here.
        if isinstance(value, bool) or not isinstance(value, int if key == "num_class_images" else str):
            allowed = "a whole number" if key == "num_class_images" else "text"
            raise UserError(f"{where}: {key} must be {allowed}, not {_short(value)}")
        too_large = isinstance(value, int) and value.bit_length() > LARGEST
        if too_large or (isinstance(value, str) and not can_name_a_file(value)):
            raise UserError(f"{where}: {key} cannot be {_short(value)}")
    entry = {key: _found(value, beside) if key in PATHS else value for key, value in entry.items()}
    of_data = {flag.name for flag in fields(DataConfig)} & set(entry)
    of_mask = {flag.name for flag in fields(MaskConfig)} & set(entry)
    try:
        own = replace(
            config,
            data=replace(config.data, **{key: entry[key] for key in of_data}),
            mask=replace(config.mask, **{key: entry[key] for key in of_mask}),
        )
        own.resolve_class_prompt()
        own.check_subject()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return Concept.of(own)
