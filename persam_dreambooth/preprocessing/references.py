"""References as users give them, as files and coordinates, and their conversion to what the methods learn from."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.images import to_mask
from persam_dreambooth.masks import Looks
from persam_dreambooth.photos import files, pairs
from persam_dreambooth.segmentation import (
    OneShotSegmenter,
    Reference,
    TextLocator,
    TextPrompt,
    reference_from,
    reference_from_text,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceFiles:
    """One reference photo and where its subject is; exactly one of the last five is given.

    Paths may be given as strings too.

    Attributes:
        image: the photo.
        mask: file of its mask, of the upright photo's size.
        scribble: file of a drawing of the same size, with strokes on the subject.
        box: XYXY in pixels of the upright photo.
        points: (x, y, label) in pixels of the upright photo; label 1 on the subject, 0 on the background.
        text: a phrase for the subject.

    Raises:
        UserError: none or several of mask, scribble, box, points and text are given.
    """

    image: Path
    mask: Path | None = None
    scribble: Path | None = None
    box: tuple[float, ...] | None = None
    points: tuple[tuple[float, float, int], ...] = ()
    text: TextPrompt | None = None

    def __post_init__(self) -> None:
        for name in ("image", "mask", "scribble"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(path))
        given = [name for name in ("mask", "scribble", "box", "points", "text") if getattr(self, name)]
        if len(given) != 1:
            names = " and ".join(given) or "nothing"
            raise UserError(
                f"the reference {self.image} was given {names} to show where the subject is; "
                "give one of a mask, a box, points, a scribble or a text"
            )

    @property
    def drawings(self) -> tuple[Path, ...]:
        """The file of the mask or scribble, if there is one."""
        return tuple(path for path in (self.mask, self.scribble) if path)

    def fingerprint(self) -> dict[str, Any]:
        """Return digests of the files, and the coordinates, as JSON values, to compare references across runs."""
        text = {"text": asdict(self.text)} if self.text else {}  # so that runs from before this field can be resumed
        return text | {
            "image": files.digest(self.image),
            "drawing": [files.digest(path) for path in self.drawings],
            "box": None if self.box is None else list(self.box),
            "points": [list(point) for point in self.points],
        }


def load_locator(prompt: TextPrompt) -> TextLocator:
    """Load the model of a text; errors as in `TextLocator.from_pretrained`."""
    return TextLocator.from_pretrained(prompt.model)


@dataclass(frozen=True, eq=False)
class ReadReference:
    """A reference whose files were read and checked.

    Attributes:
        given: the files.
        image: the upright photo, 8-bit RGB.
        drawing: the mask or scribble with its stored values; None for a box, points or a text.
    """

    given: ReferenceFiles
    image: Image.Image
    drawing: Image.Image | None

    def convert(
        self, segmenter: OneShotSegmenter, locator: Callable[[TextPrompt], TextLocator] = load_locator
    ) -> Reference:
        """Return the pair of photo and mask that methods learn from; SAM segments a box, points or a scribble.

        Args:
            segmenter: provides the SAM.
            locator: loads the model of a text.

        Raises:
            UserError: the prompt does not fit the photo, or leads to an empty or a full mask.
        """
        given = self.given
        if given.mask and self.drawing:
            return Reference(self.image, self.drawing)
        if self.drawing:
            return reference_from(segmenter, self.image, scribble=to_mask(self.drawing))
        if given.text:
            return reference_from_text(segmenter, locator(given.text), self.image, given.text)
        points, labels = [point[:2] for point in given.points], [point[2] for point in given.points]
        return reference_from(segmenter, self.image, given.box, points or None, labels)


def read_references(references: Sequence[ReferenceFiles], warns: bool = True) -> list[ReadReference]:
    """Read references and check what can be checked without a SAM; warn about masks that look wrong, if `warns`.

    Raises:
        UserError: a file cannot be read, or a mask does not fit its photo, is empty or is full.
    """
    return [_read(given, warns) for given in references]


def _read(given: ReferenceFiles, warns: bool) -> ReadReference:
    image = files.read_photo(given.image)
    drawing = next((files.read_drawn_mask(path) for path in given.drawings), None)
    if given.mask and drawing:
        looks = Looks()
        pairs.check_mask(given.mask, to_mask(drawing), given.image, image.size, looks)
        for words in (*looks.warnings(), pairs.turned_words(given.mask, given.image)):
            if words and warns:
                logger.warning(words)
    return ReadReference(given, image, drawing)
