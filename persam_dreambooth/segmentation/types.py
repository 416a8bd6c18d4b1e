"""Inputs and outputs of the library: reference, encoded photo, segmentation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.image_files import open_picture
from persam_dreambooth.images import to_mask, to_rgb, upright
from persam_dreambooth.segmentation.frame import Frame

# The foreground value of PerSeg's masks. Normalized like the red channel, it lies so little above zero that a
# cell of the embedding needs 96.6 % coverage to count as foreground: the official rule, for any mask file.
PERSEG_LEVEL = 128

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) of a part of a photo, in pixels; the last two are not included."""
OnPhoto = TypeVar("OnPhoto", NDArray[np.bool_], Tensor)
"""Values over a photo, (H, W)."""

Picture = Image.Image | NDArray[np.uint8] | str | Path
"""A Pillow image of any mode, an (H, W, 3) uint8 RGB array in [0, 255], or the path of an image file."""


def open_image(path: str | Path) -> Image.Image:
    """Read and decode an image file, as stored. Errors as in `image_files.open_picture`."""
    with open_picture(Path(path)) as image:
        return image.copy()


def rgb_array(picture: Picture) -> NDArray[np.uint8]:
    """Convert a picture to an upright (H, W, 3) uint8 RGB array.

    Raises:
        UserError: an array of another shape or dtype, or a file that cannot be read.
    """
    if isinstance(picture, str | Path):
        picture = open_image(picture)
    if isinstance(picture, Image.Image):
        return np.array(to_rgb(picture))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise UserError(
            f"an image array is (H, W, 3) uint8 RGB, not {picture.shape} {picture.dtype}; pass a PIL image instead"
        )
    return picture


@dataclass(frozen=True, eq=False)
class Reference:
    """The user's one-shot pair of image and mask.

    Args:
        image: the reference image, of any mode; `pixels` holds it as upright 8-bit RGB.
        mask: the reference mask of the same size, in any form that `to_mask` reads, or the path of its file.

    Raises:
        UserError: the sizes differ, or the mask is empty or full.
    """

    image: Picture
    mask: Image.Image | NDArray[np.generic] | str | Path
    pixels: NDArray[np.uint8] = field(init=False, repr=False)
    """(H, W, 3) uint8 RGB."""
    foreground: NDArray[np.bool_] = field(init=False, repr=False)
    """(H, W) bool, True where the subject is."""

    def __post_init__(self) -> None:
        if isinstance(self.mask, str | Path):
            object.__setattr__(self, "mask", open_image(self.mask))
        assert not isinstance(self.mask, str | Path)
        pixels, foreground = rgb_array(self.image), to_mask(self.mask)
        height, width = pixels.shape[:2]
        if foreground.shape != (height, width):
            mask_height, mask_width = foreground.shape
            raise UserError(
                f"the reference mask is {mask_width} x {mask_height} pixels but its image is {width} x {height} "
                "(upright); draw the mask on this image or resize it to the same size"
            )
        if not foreground.any():
            raise UserError("the reference mask is empty: no pixel is marked; paint the subject in white on black")
        if foreground.all():
            raise UserError("the reference mask is full: every pixel is marked; leave the background black")
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "foreground", foreground)

    def __repr__(self) -> str:
        height, width = self.foreground.shape
        return f"Reference({width} x {height} pixels, {self.foreground.mean():.1%} of them the subject's)"

    def raw_levels(self) -> NDArray[np.uint8]:
        """Return the red channel of the mask file, upright, (H, W) uint8, which the official code thresholds.

        An array that is not uint8 has no levels; its foreground becomes 128, the value in PerSeg's masks.
        """
        assert not isinstance(self.mask, str | Path), "paths are read at construction"
        if isinstance(self.mask, Image.Image):
            return np.asarray(upright(self.mask).convert("RGB"))[..., 0]
        if self.mask.dtype != np.uint8:
            return self.perseg_levels()
        return np.asarray(self.mask if self.mask.ndim == 2 else self.mask[..., 0], dtype=np.uint8)

    def perseg_levels(self) -> NDArray[np.uint8]:
        """Return the mask as PerSeg stores it, (H, W) uint8 in {0, 128}, regardless of the file's own levels."""
        return self.foreground.astype(np.uint8) * np.uint8(PERSEG_LEVEL)


@dataclass(frozen=True, eq=False)
class EncodedPhoto:
    """A photo after the image encoder, the costly part; it can be searched for any number of subjects.

    Attributes:
        embedding: (C, h, w) float32, the features F_I of equation 3.
        frame: placement of the photo in the backbone's square.
        extra: further tensors for the backbone's decoder, for instance SAM 2's finer levels.
        other: the same photo in the second encoder's features and frame, if PerSAM has one.
        crops: parts of the photo that are searched too, see `CropSearch`; usually none.
    """

    embedding: Tensor
    frame: Frame
    extra: tuple[Tensor, ...] = ()
    other: Self | None = None
    crops: "tuple[Crop, ...]" = ()

    def __repr__(self) -> str:
        size = f"{self.frame.width} x {self.frame.height} pixels"
        return f"EncodedPhoto({size}, features {tuple(self.embedding.shape)})"

    @property
    def compared(self) -> Self:
        """The encoding that the confidence map uses (equations 4 to 7): the second encoder's if present, or this."""
        return self if self.other is None else self.other


@dataclass(frozen=True, eq=False)
class Crop:
    """A part of a photo.

    Attributes:
        box: where it lies in the photo.
        encode: encodes the part like a photo.
    """

    box: Box
    encode: Callable[[], EncodedPhoto]

    @cached_property
    def photo(self) -> EncodedPhoto:
        """The encoded part; it is encoded when it is first needed, and kept."""
        return self.encode()

    def of(self, values: OnPhoto) -> OnPhoto:
        """Return the part of (H, W) values over the photo that lies in the crop, as a view."""
        left, top, right, bottom = self.box
        return values[top:bottom, left:right]


@dataclass(frozen=True, eq=False)
class DecoderPass:
    """One run of the mask decoder.

    Attributes:
        logits: (K, h, w) float32, low resolution over the whole model square; K is 1 or 3.
        predicted_iou: (K,) float32, the decoder's own estimate of each mask's quality.
        index: index of the mask with the best predicted IoU.
        kept: (h, w) float32, the logits passed on: those of `index`, or the weighted sum of all K (PerSAM-F).
        box: the box prompt of this pass, (4,) int XYXY, original frame; None without one.
    """

    logits: NDArray[np.float32]
    predicted_iou: NDArray[np.float32]
    index: int
    kept: NDArray[np.float32]
    box: NDArray[np.int64] | None

    def __repr__(self) -> str:
        scores = ", ".join(f"{score:.3f}" for score in self.predicted_iou)
        return f"DecoderPass(logits {self.logits.shape}, predicted IoU {scores}, index {self.index})"


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The subject in one photo.

    All coordinates are in the original frame of the upright photo of height H and width W.

    Attributes:
        mask: (H, W) bool, True where the subject is.
        score: predicted IoU of the mask, about [0, 1]; INSID3 and SegGPT have scores of their own, see their classes.
        points: (N, 2) int, (x, y): the positive point first, then the negative one.
        point_labels: (N,) int, 1 for positive and 0 for negative.
        box: (4,) int XYXY, the tight box around the mask, last pixels included; None for an empty mask.
        confidence_map: (H, W) float32 in [-1, 1], cosine similarity with the subject (equation 6); for SegGPT, which
            has none, the brightness that it painted, in [0, 1].
        attention_bias: (h, w) float32 on the embedding's grid, the bias of guided attention; None if it is off.
        passes: the decoder passes in order; the mask comes from `passes[-1]`.
        warnings: one sentence each.
    """

    mask: NDArray[np.bool_]
    score: float
    points: NDArray[np.int64]
    point_labels: NDArray[np.int64]
    box: NDArray[np.int64] | None
    confidence_map: NDArray[np.float32]
    attention_bias: NDArray[np.float32] | None
    passes: tuple[DecoderPass, ...]
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        height, width = self.mask.shape
        box = None if self.box is None else self.box.tolist()
        warned = "".join(f", {warning!r}" for warning in self.warnings)
        return (
            f"Segmentation({width} x {height} pixels, {self.mask.mean():.1%} of them the subject's, "
            f"score {self.score:.3f}, box {box}{warned})"
        )

    @property
    def logits(self) -> NDArray[np.float32]:
        """(h, w) float32 low-resolution logits of the mask, over the whole model square."""
        return self.passes[-1].kept
