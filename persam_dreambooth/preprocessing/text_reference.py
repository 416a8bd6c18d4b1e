"""Choose the reference photo of a job that only has a phrase: the photo where the phrase has the highest score."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing.job import SegmentationJob
from persam_dreambooth.preprocessing.mask_store import SETTINGS_NAME, MaskStore
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import TextLocator, TextPrompt


def with_reference(job: SegmentationJob, albums: Sequence[SegmentationJob], again: bool = False) -> SegmentationJob:
    """Return the job with a reference photo chosen by its phrase; a job that has a reference is returned unchanged.

    Args:
        job: the run.
        albums: the jobs of the folders that it segments, whose photos are searched.
        again: choose again; otherwise the reference photo of an earlier run with the same phrase stays.

    Raises:
        UserError: an output folder holds something else, the model cannot be read, or the phrase matches in no photo.
    """
    if job.references or job.text is None:
        return job
    photos = [photo for album in albums for photo in album.photos()]
    chosen = None if again else _earlier(photos, (album.output for album in albums), job.text)
    if chosen is None:
        for album in albums:  # a folder of something else is refused before the search, which may take long
            MaskStore(album.output).check(again)
        chosen = _best(photos, job.text, job.device)
    return replace(job, references=(ReferenceFiles(chosen, text=job.text),), text=None)


def _best(photos: Sequence[Path], prompt: TextPrompt, device: str | None) -> Path:
    """Return the photo with the highest score; the first of several equal ones."""
    locator = TextLocator.from_pretrained(prompt.model, device)
    scores = dict[Path, float]()
    for path in tqdm(photos, desc=f"Looking for {prompt.phrase!r}", unit="photo"):
        try:
            photo = files.read_photo(path)
        except UserError:  # the run reports it, in the photo's entry
            continue
        if matches := locator.locate(photo, prompt):
            scores[path] = matches[0].score
    if not scores:
        raise UserError(
            f"no {prompt.phrase!r} was found in {len(photos)} photos with a score above "
            f"{locator.threshold(prompt):g}; use other words or a lower --text_threshold, or give a reference"
        )
    return max(scores, key=lambda path: scores[path])


def _earlier(photos: Iterable[Path], outputs: Iterable[Path], prompt: TextPrompt) -> Path | None:
    """Return the photo that an earlier run in one of the folders chose for the same phrase; None without one."""
    digests = {reference["image"] for output in outputs for reference in _references(output, prompt)}
    return next((photo for photo in photos if digests and files.digest(photo) in digests), None)


def _references(output: Path, prompt: TextPrompt) -> list[dict[str, Any]]:
    """Return the fingerprints of the references that a phrase made, from an output folder's settings."""
    try:
        references = json.loads((output / SETTINGS_NAME).read_text(encoding="utf-8"))["references"]
        return [reference for reference in references if reference.get("text") == asdict(prompt)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # no earlier run, or a damaged one, which `MaskStore.check` refuses
