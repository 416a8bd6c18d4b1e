"""The reference as a user names it: files, and numbers from the command line, to what PerSAM takes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from persam_dreambooth import masks
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, pairs
from persam_dreambooth.segmentation import PerSAM, Reference, reference_from

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceFiles:
    """One reference photo and where its subject is; exactly one of the last four is given.

    Paths may be given as strings too.

    Attributes:
        image: the photo.
        mask: file of its mask.
        scribble: file of a drawing whose strokes lie on the subject.
        box: XYXY in pixels of the upright photo.
        points: (x, y, label) in the same frame, label 1 on the subject and 0 beside it.
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
            said = " and ".join(given) or "nothing"
            raise UserError(
                f"the reference {self.image} was given {said} to say where the subject is; "
                "give one of a mask, a box, points or a scribble"
            )

    @property
    def drawings(self) -> tuple[Path, ...]:
        """Files beside the photo that are no photos themselves."""
        return tuple(path for path in (self.mask, self.scribble) if path)

    def fingerprint(self) -> dict[str, Any]:
        """What tells this reference from another: digests of its files and its numbers."""
        return {
            "image": files.digest(self.image),
            "drawing": [files.digest(path) for path in self.drawings],
            "box": None if self.box is None else list(self.box),
            "points": [list(point) for point in self.points],
        }


def check_references(given: Sequence[ReferenceFiles]) -> None:
    """Read everything that needs no SAM, so that a mistake is told before one is loaded; warn of odd masks.

    Raises:
        UserError: a file cannot be read, or a mask does not fit its photo, or shows no subject.
    """
    for one in given:
        image = files.read_photo(one.image)
        if one.mask:
            _check_mask(one.mask, one.image, image)
        elif one.scribble:
            files.read_mask(one.scribble)


def _check_mask(mask: Path, photo: Path, image: Image.Image) -> None:
    drawn = files.read_mask(mask)
    pairs.check_size(mask, drawn.shape, photo, image.size)
    masks.refuse_empty(drawn, f"the mask {mask}")
    masks.refuse_full(drawn, f"the mask {mask}")
    looks = masks.Looks()
    looks.add(photo.name, drawn)
    for words in (*looks.warnings(), pairs.turned_words(mask, photo)):
        if words:
            logger.warning(words)


def read_references(given: Sequence[ReferenceFiles], persam: PerSAM) -> list[Reference]:
    """All references; SAM makes the masks that are not there.

    Raises:
        UserError: a file cannot be read, does not fit its photo, or shows SAM nothing.
    """
    return [_read(one, persam) for one in given]


def _read(given: ReferenceFiles, persam: PerSAM) -> Reference:
    image = files.read_photo(given.image)
    if given.mask:
        return Reference(image, files.read_drawn_mask(given.mask))
    if given.scribble:
        return reference_from(persam, image, scribble=files.read_mask(given.scribble))
    points = [point[:2] for point in given.points]
    return reference_from(persam, image, given.box, points or None, [point[2] for point in given.points])
