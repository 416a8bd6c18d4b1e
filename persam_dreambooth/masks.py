"""Check user-supplied masks: refuse what cannot be a mask, and warn about what looks wrong."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from persam_dreambooth.errors import UserError
from persam_dreambooth.images import drawing

FEW_COLOURS: Final = 16
"""An image with at most this many colours counts as a drawing, not as a photo."""
FLAT_SHARE: Final = 0.95
"""Minimum share of a drawing, apart from its commonest colour, that its next seven colours cover. In the album used to
tune this, painted-over photos reached at most 0.93, and red masks saved as poor JPEGs at least 0.98."""
MIDDLE_SHARE: Final = 1 / 3
"""Maximum share of half-tones, edges excluded, among the levels that are not black. Grey photos had at least 0.44,
masks of 1300 pixels blurred by 30 at most 0.31."""
SMOOTH_RANGE, SMOOTH_SHARE = 16, 0.99
"""A grey picture is a painted weight, not a photo, if at least this share of its half-tones differ from their eight
neighbours by at most this many of 255 levels."""
LEAST_PIXELS: Final = 16
"""Minimum number of marked pixels; fewer are taken for a slip of the mouse."""
FULL_SHARE: Final = 0.95
BRUSH = "paint the subject in white on black"


def refuse_picture(mask: Image.Image | NDArray[np.generic], what: str) -> None:
    """Refuse a photo, a painted-over photo, or a coloured cut-out without transparency.

    Args:
        mask: any mask that `to_mask` accepts.
        what: the mask's name, for the message.

    Raises:
        UserError: it has the many shades of a photo.
    """
    levels = _bytes_of(drawing(mask))
    if (levels.ndim == 2 or levels.shape[-1] == 3) and Image.fromarray(levels).getcolors(FEW_COLOURS):
        return
    if levels.ndim == 3 and _flat_share(levels) < FLAT_SHARE:
        shades = f"{len(np.unique(levels @ (256 ** np.arange(levels.shape[-1]))))} colours"
    elif levels.ndim == 2 and _is_smooth(levels):
        return
    elif _middle_share(levels if levels.ndim == 2 else levels.max(axis=-1)) > MIDDLE_SHARE:
        shades = "mostly shades of grey" if levels.ndim == 2 else "mostly half-tones"
    else:
        return
    raise UserError(
        f"{what} is not a mask but a photo or a coloured drawing ({shades}); {BRUSH}, or cut the subject out with "
        "transparency around it"
    )


def refuse_empty(mask: NDArray[np.bool_], what: str) -> None:
    """Refuse a mask, (H, W), that marks nothing or almost nothing.

    Raises:
        UserError: the mask is refused.
    """
    marked = int(mask.sum())
    if marked == 0:
        raise UserError(f"{what} is empty: no pixel is marked; {BRUSH}")
    if marked < min(LEAST_PIXELS, mask.size):
        raise UserError(f"{what} marks {marked} of {mask.size} pixels, too few for a subject; {BRUSH}")


def refuse_full(mask: NDArray[np.bool_], what: str) -> None:
    """Refuse a mask, (H, W), that marks everything.

    Raises:
        UserError: the mask is refused.
    """
    if mask.all():
        raise UserError(f"{what} is full: every pixel is marked; leave the background black")


@dataclass
class Looks:
    """Warnings about masks that look wrong, collected mask by mask before training or export.

    Attributes:
        inverted: names of the masks that look inverted, with the background drawn instead of the subject.
        coverage: each mask's share of its photo, in [0, 1].
    """

    inverted: list[str] = field(default_factory=list)
    coverage: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, mask: NDArray[np.bool_]) -> None:
        """Check one mask, (H, W)."""
        self.coverage[name] = float(mask.mean())
        if looks_inverted(mask):
            self.inverted.append(name)

    def warnings(self) -> list[str]:
        """Return one line for each kind of problem; empty if all masks look right."""
        lines = []
        full = [name for name, share in self.coverage.items() if share > FULL_SHARE and name not in self.inverted]
        if full:
            names = "all photos" if len(full) == len(self.coverage) > 1 else ", ".join(full)
            lines.append(f"warning: the masks of {names} cover nearly everything; white is learned, black is not")
        if self.inverted:
            names = ", ".join(self.inverted)
            lines.append(f"warning: the masks of {names} cover the border and less of the middle; white is learned")
        return lines


def looks_inverted(mask: NDArray[np.bool_]) -> bool:
    """Return whether a mask, (H, W), covers most of the photo and of its border, but less of its middle."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    top, left = (side // 3 for side in mask.shape)
    middle = mask[top : mask.shape[0] - top, left : mask.shape[1] - left].mean()
    return bool(mask.mean() > 0.5 and border > 0.9 and middle < border)


def _bytes_of(levels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale levels to [0, 255], so that the brightest is 255."""
    brightest = float(levels.max(initial=0))
    if levels.dtype == np.uint8 and brightest == 255:
        return levels.astype(np.uint8)
    brightest = max(brightest, 1e-9)
    return (levels.astype(np.float32).clip(0) * (255 / brightest)).astype(np.uint8)


def _flat_share(colours: NDArray[np.uint8]) -> float:
    """Return the share of pixels outside the commonest colour that the next seven cover; colours to the nearest 32."""
    codes = np.zeros(colours.shape[:2], np.uint16)
    for channel in range(colours.shape[-1]):  # one channel at a time: photos are large
        codes = codes * np.uint16(9) + ((colours[..., channel].astype(np.uint16) + 16) >> 5)
    counts = np.sort(np.bincount(codes.ravel()))[::-1]
    return float(counts[1:8].sum() / max(1, counts[1:].sum()))


def _is_smooth(levels: NDArray[np.uint8]) -> bool:
    """Return whether almost all half-tones among the levels, (H, W), have nearly the levels of their neighbours."""
    picture, half_tones = Image.fromarray(levels), (levels > 64) & (levels < 192)
    high, low = (np.asarray(picture.filter(kind(3))) for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter))
    smooth = half_tones & (high - low <= SMOOTH_RANGE)
    return int(smooth.sum()) >= SMOOTH_SHARE * max(1, int(half_tones.sum()))


def _middle_share(levels: NDArray[np.uint8]) -> float:
    """Return the share of half-tones surrounded by half-tones among the levels, (H, W), that are not black."""
    middle = Image.fromarray((levels > 64) & (levels < 192)).convert("L").filter(ImageFilter.MinFilter(3))
    return int(np.count_nonzero(np.asarray(middle))) / max(1, int(np.count_nonzero(levels > 64)))
