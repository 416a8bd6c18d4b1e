"""The contact sheet: one picture of all overlays with names and scores; of a large album, the least certain ones."""

import heapq
import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from persam_dreambooth.photos import files, rendering
from persam_dreambooth.photos.manifest import ManifestEntry

SHEET_NAME = "contact_sheet.png"
SHEET_PHOTOS = 120
"""Largest number of photos on a contact sheet."""


def write_sheet(folder: Path, entries: Callable[[], Iterator[ManifestEntry]]) -> None:
    """Draw the contact sheet, unless it exists or there is no mask.

    Args:
        folder: the subject's output folder.
        entries: yields the manifest's entries, from the first at each call.
    """
    if (folder / SHEET_NAME).exists():
        return

    def readable() -> Iterator[ManifestEntry]:
        return (entry for entry in entries() if entry.error is None)

    shown = list(islice(readable(), SHEET_PHOTOS + 1))
    if len(shown) > SHEET_PHOTOS:
        shown = heapq.nsmallest(SHEET_PHOTOS, readable(), key=_certainty)
    pictures, captions = [], []
    for entry in shown:
        picture = files.read_picture(folder / str(entry.overlay))
        picture.thumbnail((rendering.TILE, rendering.TILE))
        pictures.append(picture)
        quality = "reference" if entry.score is None else f"{min(entry.score, 1):.2f}"
        presence = f"  {entry.presence}" if entry.uncertain else ""
        captions.append(f"{Path(entry.photo).stem}  {quality}{presence}")
    if pictures:
        files.write_picture(rendering.sheet(pictures, captions), folder / SHEET_NAME)


def remove_sheet(folder: Path) -> None:
    """Remove the contact sheet, because its masks have changed."""
    (folder / SHEET_NAME).unlink(missing_ok=True)


def _certainty(entry: ManifestEntry) -> tuple[float, float]:
    """Sort key: probability that the subject is there, then predicted IoU; references come last."""
    probability, score = (math.inf if value is None else value for value in (entry.probability, entry.score))
    return probability, score
