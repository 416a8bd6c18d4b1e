"""The contact sheet: overlays with names and scores on one picture; of a large album the least certain photos."""

import heapq
import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from persam_dreambooth.photos import files, rendering
from persam_dreambooth.photos.manifest import ManifestEntry

SHEET_NAME = "contact_sheet.png"
SHEET_PHOTOS = 120
"""A contact sheet shows at most so many photos, the least certain ones."""


def write_sheet(folder: Path, entries: Callable[[], Iterator[ManifestEntry]]) -> None:
    """Draw the contact sheet, unless it is there or there is no mask.

    Args:
        folder: of the overlays; the sheet is written there.
        entries: the manifest's, read from the start at each call.
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
        doubt = f"  {entry.presence}" if entry.uncertain else ""
        captions.append(f"{Path(entry.photo).stem}  {quality}{doubt}")
    if pictures:
        files.write_picture(rendering.sheet(pictures, captions), folder / SHEET_NAME)


def remove_sheet(folder: Path) -> None:
    """Remove the contact sheet of what was there before."""
    (folder / SHEET_NAME).unlink(missing_ok=True)


def _certainty(entry: ManifestEntry) -> tuple[float, float]:
    """Sort key: whether the subject is there, then the mask's quality; references come last."""
    probability, score = (math.inf if value is None else value for value in (entry.probability, entry.score))
    return probability, score
