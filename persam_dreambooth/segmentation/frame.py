"""Where a photo lies in the square that a SAM sees, and how coordinates and maps travel between the two."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

# SAM's training statistics, RGB in [0, 255]; all families but SAM 3 share them.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Frame:
    """A photo of `height` x `width` pixels resized into a `side` x `side` square.

    It keeps its proportion and lies at the top left, the rest is padding; or, with `stretch`, it
    fills the square and there is no padding, as SAM 2 and its relatives want it. `mean` and `std`
    normalize its RGB levels in [0, 255]. With a `border` the photo is that many model-frame pixels
    smaller on each side, and its outermost pixels are repeated there.

    Two coordinate frames meet here. The *original frame* is the upright photo's pixels; the
    *model frame* is the square's. Points are (x, y), boxes XYXY, sizes (height, width).
    """

    height: int
    width: int
    side: int
    stretch: bool = False
    mean: tuple[float, float, float] = PIXEL_MEAN
    std: tuple[float, float, float] = PIXEL_STD
    border: int = 0

    @property
    def resized(self) -> tuple[int, int]:
        """(height, width) of the photo inside the square, without its border, in model-frame pixels."""
        side = self.side - 2 * self.border
        if self.stretch:
            return side, side
        height, width = ResizeLongestSide.get_preprocess_shape(self.height, self.width, side)
        return max(1, height), max(1, width)  # of a photo a thousand times as long as wide a line is left

    def pixels(self, image: NDArray[np.uint8]) -> Tensor:
        """What the encoder takes.

        Args:
            image: (height, width, 3) uint8 RGB.

        Returns:
            (3, side, side) float32, normalized, zero-padded at the right and bottom beyond the border.
        """
        height, width = self.resized
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        values = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()
        values = (values - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)
        return self._in_square(values[None], 0.0)[0]

    def to_model(self, points: Tensor) -> Tensor:
        """(..., 2) points (x, y), original frame, to float32 points in the model frame."""
        height, width = self.resized
        scale = torch.tensor([width / self.width, height / self.height], dtype=torch.float64, device=points.device)
        return (points * scale + self.border).float()

    def box_to_model(self, box: Tensor) -> Tensor:
        """A (4,) XYXY box, original frame, to a float32 one in the model frame."""
        return self.to_model(box.view(2, 2)).flatten()

    def to_original(self, maps: Tensor) -> Tensor:
        """(K, h, w) maps over the whole square to (K, height, width) maps over the photo.

        Bilinear to the square, padding and border cut off, bilinear to the photo: SAM's own way back.
        Where the photo fills the square, bilinear to the photo at once: SAM 2's.
        """
        size = (self.height, self.width)
        if self.stretch and not self.border:
            return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
        square = F.interpolate(maps[None], (self.side, self.side), mode="bilinear", align_corners=False)
        height, width = self.resized
        photo = square[..., self.border : self.border + height, self.border : self.border + width]
        return F.interpolate(photo, size, mode="bilinear", align_corners=False)[0]

    def to_grid(self, photo_map: Tensor, cells: int, value: float, mode: Literal["bilinear", "area"]) -> Tensor:
        """(height, width) over the photo to (cells, cells) over the whole square, `value` in the padding.

        The photo's edge is repeated in the border. Padded in the model frame, since at the photo's own
        scale a long and narrow one would take memory by the square of its longer side; a photo that
        fills the square goes to the grid at once, as in the official code. "area" loses no thin line.
        """
        align = None if mode == "area" else False
        maps = photo_map[None, None]
        if self.resized != (self.side, self.side):
            inside = F.interpolate(maps, self.resized, mode=mode, align_corners=align)
            maps = self._in_square(inside, value)
        return F.interpolate(maps, (cells, cells), mode=mode, align_corners=align)[0, 0]

    def _in_square(self, maps: Tensor, value: float) -> Tensor:
        """(1, K, *resized) maps to (1, K, side, side): their edges repeated in the border, then `value`."""
        if self.border:
            maps = F.pad(maps, (self.border,) * 4, mode="replicate")
        height, width = maps.shape[-2:]
        return F.pad(maps, (0, self.side - width, 0, self.side - height), value=value)


def bounding_box(mask: Tensor) -> Tensor | None:
    """The tight box, (4,) int64 XYXY of the first and last pixels inside, of an (H, W) bool mask.

    None where the mask is empty.
    """
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if rows.numel() == 0:
        return None
    return torch.stack([columns[0], rows[0], columns[-1], rows[-1]])
