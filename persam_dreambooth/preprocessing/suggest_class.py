"""Suggest class nouns for the subject of an output folder, from the masks that are certainly its own."""

from collections.abc import Iterator
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.class_suggestion import ClassSuggestion
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, ManifestIndex
from persam_dreambooth.segmentation.class_nouns import ClassSuggester

PHOTOS: Final = 8
"""Maximum number of photos compared with the nouns; more hardly change the result."""


def suggest_class(
    output: Path, suggester: ClassSuggester, model: str, vocabulary: Path | None = None
) -> ClassSuggestion | None:
    """Suggest class nouns and write them to `class_suggestion.json`.

    Args:
        output: the subject's output folder, as `segment_folder` writes it.
        suggester: compares the cut-outs with the nouns.
        model: its name, for the file.
        vocabulary: file of its nouns, for the file.

    Returns:
        The suggestion; None, and no file is written, if no mask is certainly the subject's.
    """
    shown = list(islice(_shown(output), PHOTOS))
    if not shown:
        return None
    nouns, scores = zip(*suggester.suggest(shown), strict=True)
    suggestion = ClassSuggestion(
        nouns, tuple(round(score, 4) for score in scores), model, None if vocabulary is None else str(vocabulary)
    )
    suggestion.save(output)
    return suggestion


def _shown(output: Path) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield photos, (H, W, 3) uint8 RGB, with the subject's masks, (H, W) bool, those that a person made first."""
    certain = (entry for entry in ManifestIndex(output / MANIFEST_NAME) if _is_certain(entry))
    for entry in nsmallest(4 * PHOTOS, certain, key=_rank):  # some may be unreadable or changed
        photo = output / entry.photo
        try:
            pixels, mask = np.asarray(files.read_photo(photo)), files.read_mask(output / str(entry.mask))
        except UserError:
            continue
        if mask.any() and mask.shape == pixels.shape[:2] and files.digest(photo) == entry.digest:
            yield pixels, mask


def _is_certain(entry: ManifestEntry) -> bool:
    return entry.mask is not None and not (entry.error or entry.uncertain or entry.excluded)


def _rank(entry: ManifestEntry) -> tuple[bool, float]:
    return not entry.reviewed, -(entry.probability or entry.score or 0.0)
