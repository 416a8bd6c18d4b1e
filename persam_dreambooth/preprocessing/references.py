"""References as users give them, as files and coordinates, and their conversion to what PerSAM takes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persam_dreambooth.errors import UserError
from persam_dreambooth.masks import Looks
from persam_dreambooth.photos import files, pairs
from persam_dreambooth.segmentation import OneShotSegmenter, Reference, reference_from

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceFiles:
    """One reference photo and where its subject is; exactly one of the last four is given.

    Paths may be given as strings too.

    Attributes:
        image: the photo.
        mask: file of its mask, of the upright photo's size.
        scribble: file of a drawing of the same size, with strokes on the subject.
        box: XYXY in pixels of the upright photo.
        points: (x, y, label) in pixels of the upright photo; label 1 on the subject, 0 on the background.

    Raises:
        UserError: none or several of mask, scribble, box and points are given.
    """

    image: Path
    mask: Path | None = None
    scribble: Path | None = None
    box: tuple[float, ...] | None = None
    points: tuple[tuple[float, float, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("image", "mask", "scribble"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(path))
        given = [name for name in ("mask", "scribble", "box", "points") if getattr(self, name)]
        if len(given) != 1:
            names = " and ".join(given) or "nothing"
            raise UserError(
                f"the reference {self.image} was given {names} to show where the subject is; "
                "give one of a mask, a box, points or a scribble"
            )

    @property
    def drawings(self) -> tuple[Path, ...]:
        """The file of the mask or scribble, if there is one."""
        return tuple(path for path in (self.mask, self.scribble) if path)

    def fingerprint(self) -> dict[str, Any]:
        """Return digests of the files, and the coordinates, as JSON values, to compare references across runs."""
        return {
            "image": files.digest(self.image),
            "drawing": [files.digest(path) for path in self.drawings],
            "box": None if self.box is None else list(self.box),
            "points": [list(point) for point in self.points],
        }


def check_references(references: Sequence[ReferenceFiles]) -> None:
    """Read all references and check what can be checked without a SAM; warn about masks that look wrong.

    Raises:
        UserError: a file cannot be read, or a mask does not fit its photo, is empty or is full.
    """
    for reference in references:
        size, looks = files.read_photo(reference.image).size, Looks()
        drawings = [files.read_mask(path) for path in reference.drawings]
        if reference.mask:
            pairs.check_mask(reference.mask, drawings[0], reference.image, size, looks)
            for words in (*looks.warnings(), pairs.turned_words(reference.mask, reference.image)):
                if words:
                    logger.warning(words)


def read_references(references: Sequence[ReferenceFiles], segmenter: OneShotSegmenter) -> list[Reference]:
    """Read all references; SAM segments those that are given by a box, points or a scribble.

    Raises:
        UserError: a file cannot be read, does not fit its photo, or leads SAM to an empty mask.
    """
    return [_read(reference, segmenter) for reference in references]


def _read(reference: ReferenceFiles, segmenter: OneShotSegmenter) -> Reference:
    image = files.read_photo(reference.image)
    if reference.mask:
        return Reference(image, files.read_drawn_mask(reference.mask))
    if reference.scribble:
        return reference_from(segmenter, image, scribble=files.read_mask(reference.scribble))
    points, labels = [point[:2] for point in reference.points], [point[2] for point in reference.points]
    return reference_from(segmenter, image, reference.box, points or None, labels)
