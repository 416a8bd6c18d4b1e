"""Check captions before the first step: missing or repeated ones, missing identifiers, words for the background."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from persam_dreambooth.errors import UserError, counted, listed
from persam_dreambooth.model_folder import subject_words
from persam_dreambooth.photos.manifest import ManifestEntry, relative_path
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.data.dataset import InstancePhoto
from persam_dreambooth.training.screen import warn

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PLACE = re.compile(
    r"\b(?:in front of|on top of|next to|in|on|at|under|near|beside|behind|inside|outside|against)"
    r" (?:a|an|the|my|his|her|their|some) [\w-]+(?: [\w-]+)?|\b[\w-]+ background\b",
    re.IGNORECASE,
)
"""A phrase that probably names a place: a preposition, an article and one or two words; or "... background"."""


def check_captions(
    concepts: Sequence[Concept],
    photos: Sequence[InstancePhoto],
    manifest: Sequence[ManifestEntry],
    config: TrainingConfig,
) -> None:
    """Warn of captions and photos that are allowed but seldom intended, in one line per kind and subject.

    Args:
        concepts: the subjects.
        photos: all that are trained on.
        manifest: has their digests.
        config: the run's settings.
    """
    output = Path(config.output.output_dir)
    digests = {entry.photo: entry.digest for entry in manifest}
    for number, concept in enumerate(concepts):
        own = [photo for photo in photos if photo.concept == number]
        known = {photo.name: digests.get(relative_path(photo.photo, output), "") for photo in own}
        remarks = chain(_files(concept, own), _trigger(concept, own), _same_photos(known))
        for remark in chain(remarks, _places(own) if _hides_background(config) else ()):
            warn(f"{f'{concept.name}: ' if concept.name else ''}{remark}")


def check_new_words(concepts: Sequence[Concept], photos: Sequence[InstancePhoto], words: Sequence[str]) -> None:
    """Refuse prompts that cannot teach the words of textual inversion.

    Args:
        concepts: the subjects.
        photos: all that are trained on.
        words: of `--token_abstraction`.

    Raises:
        UserError: no prompt has the word, or a class prompt has it.
    """
    for word in words:
        alone = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
        if not any(alone.search(photo.prompt) for photo in photos):
            raise UserError(
                f"--token_abstraction: no photo's prompt has the word {word}, so that it would not be learned; write "
                f'it into --instance_prompt, as in "a {word} dog", or name another word'
            )
        for concept in concepts:
            if concept.class_prompt and alone.search(concept.class_prompt):
                raise UserError(
                    f"--class_prompt {concept.class_prompt!r} has the new word {word}, which is the subject's; take "
                    "it out"
                )


def check_phrases(photo: InstancePhoto, phrases: Sequence[str]) -> None:
    """Warn of a prompt that names a subject of which the photo has no mask.

    Args:
        photo: with its regions.
        phrases: all of the run's, in its photos' regions or not.

    Raises:
        UserError: the prompt does not contain the phrase of one of the photo's regions.
    """
    prompt, masks = _plain(photo.prompt), {region.phrase: region.mask for region in photo.regions}
    for phrase in phrases:
        if phrase in masks and _plain(phrase) not in prompt:
            raise UserError(
                f"the prompt of {photo.name}, {photo.prompt!r}, does not contain {phrase!r}, the name of the folder "
                f"of its mask {masks[phrase]}; write it there, rename the folder, or remove the mask"
            )
        if phrase not in masks and _plain(phrase) in prompt:
            warn(f"the prompt of {photo.name}, {photo.prompt!r}, names {phrase!r}, of which the photo has no mask")


def _plain(text: str) -> str:
    """Return a text in lower case with single spaces, in Unicode's NFC (names of folders on a Mac may be in NFD)."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def _files(concept: Concept, photos: Sequence[InstancePhoto]) -> Iterator[str]:
    """Remark on caption files that are missing, empty, alike, or begin with a byte-order mark."""
    if not concept.caption_extension:
        return
    paths = {photo.name: photo.photo.with_suffix(concept.caption_extension) for photo in photos}
    read = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    if not read:
        return  # find_instances has warned
    missing = [name for name in paths if name not in read]
    empty = [name for name, text in read.items() if not text.removeprefix(BYTE_ORDER_MARK).strip()]
    for names, what in ((missing, "no caption file"), (empty, "an empty caption")):
        if names:
            yield (
                f"{counted(len(names), 'photo')} with {what}, which {_gets(names)} the instance prompt instead: "
                f"{listed(names)}"
            )
    marked = [name for name, text in read.items() if text.startswith(BYTE_ORDER_MARK)]
    if marked:
        yield (
            f"{counted(len(marked), 'caption')} with a byte-order mark, which is dropped here, but other trainers "
            f"read as a part of the first word; save as UTF-8 without it: {listed(marked)}"
        )
    alike = _groups({name: " ".join(text.decode("utf-8-sig").split()) for name, text in read.items()})
    for text, names in alike.items():
        yield f"{counted(len(names), 'photo')} with the same caption {_shown(text)}: {listed(names)}"


def _trigger(concept: Concept, photos: Sequence[InstancePhoto]) -> Iterator[str]:
    """Remark on captions without the word that names the subject in the instance prompt, or `--identifier`."""
    own = subject_words(concept.prompt or "", concept.class_prompt)
    certain = own if concept.class_prompt or len(own) > 1 else []  # a single word may be the class noun
    word = concept.identifier or (certain[0] if certain else None)
    if not word or not concept.caption_extension:
        return
    lacking = [photo.name for photo in photos if word.lower() not in _words(photo.prompt)]
    if lacking:
        yield (
            f"{counted(len(lacking), 'caption')} without {word!r}, the word for the subject, so that it is learned "
            f"without its name: {listed(lacking)}"
        )


def _words(prompt: str) -> set[str]:
    return {word.strip(",.;:!?()\"'").lower() for word in prompt.split()}


def _hides_background(config: TrainingConfig) -> bool:
    """Return whether nothing outside the masks is learned from the photos."""
    mask = config.mask
    return mask.masked_loss and mask.background_weight == 0 and mask.unmasked_probability == 0


def _places(photos: Sequence[InstancePhoto]) -> Iterator[str]:
    """Remark on words that seem to name the background, which the masks take out of the loss."""
    found = {photo.name: match.group() for photo in photos if (match := PLACE.search(photo.prompt))}
    if found:
        examples = listed([f"{name} ({words!r})" for name, words in found.items()])
        yield (
            f"{counted(len(found), 'prompt')} with words that may name the background, which the masks take out of "
            f"the loss, so that they are learned as if they belonged to the subject; drop them: {examples}"
        )


def _same_photos(digests: Mapping[str, str]) -> Iterator[str]:
    """Remark on photos whose files are the same, byte for byte."""
    for names in _groups(digests).values():
        yield f"{listed(names)} are the same photo, which counts {len(names)} times; delete all but one"


def _groups(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Return each non-empty value that several names share, with these names."""
    names = defaultdict[str, list[str]](list)
    for name, value in values.items():
        if value:
            names[value].append(name)
    return {value: own for value, own in names.items() if len(own) > 1}


def _gets(names: Sequence[str]) -> str:
    return "gets" if len(names) == 1 else "get"


def _shown(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")
