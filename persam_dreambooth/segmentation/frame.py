"""Placement of a photo in SAM's square input, and the mapping of coordinates and maps between the two."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

# SAM's training statistics, RGB in [0, 255]; shared by all families except SAM 3.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Frame:
    """A photo of `height` x `width` pixels resized into a `side` x `side` square.

    The photo keeps its aspect ratio and lies at the top left, the rest is padding. With `stretch` it
    fills the square without padding, as SAM 2 and its relatives expect. `mean` and `std` normalize its
    RGB levels in [0, 255]. With a `border` the photo is shrunk by that many model-frame pixels on each
    side, and its outermost pixels are replicated there.

    There are two coordinate frames: the *original frame* is the upright photo's pixels, the
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
        """Size (height, width) of the photo inside the square, without its border, in model-frame pixels."""
        side = self.side - 2 * self.border
        if self.stretch:
            return side, side
        height, width = ResizeLongestSide.get_preprocess_shape(self.height, self.width, side)
        return max(1, height), max(1, width)  # extreme aspect ratios (1000:1) keep at least one pixel

    def pixels(self, image: NDArray[np.uint8]) -> Tensor:
        """Preprocess a photo for the encoder.

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
        """Map (..., 2) points (x, y) from the original frame to float32 points in the model frame."""
        height, width = self.resized
        scale = torch.tensor([width / self.width, height / self.height], dtype=torch.float64, device=points.device)
        return (points * scale + self.border).float()

    def box_to_model(self, box: Tensor) -> Tensor:
        """Map a (4,) XYXY box from the original frame to a float32 box in the model frame."""
        return self.to_model(box.view(2, 2)).flatten()

    def to_original(self, maps: Tensor) -> Tensor:
        """Resize (K, h, w) maps over the whole square to (K, height, width) maps over the photo.

        Upsampled bilinearly to the square, cropped to the photo, resized bilinearly to its size, as in SAM's
        own postprocessing. If the photo fills the square, resized bilinearly in one step, as in SAM 2's.
        """
        size = (self.height, self.width)
        if self.stretch and not self.border:
            return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
        square = F.interpolate(maps[None], (self.side, self.side), mode="bilinear", align_corners=False)
        height, width = self.resized
        photo = square[..., self.border : self.border + height, self.border : self.border + width]
        return F.interpolate(photo, size, mode="bilinear", align_corners=False)[0]

    def to_grid(self, photo_map: Tensor, cells: int, value: float, mode: Literal["bilinear", "area"]) -> Tensor:
        """Resize a (height, width) map over the photo to (cells, cells) over the square, `value` in the padding.

        The border replicates the photo's edge. Padding happens in the model frame: at the photo's own scale
        a long, narrow photo would need memory quadratic in its longer side. A photo that fills the square is
        resized to the grid in one step, as in the official code. Mode "area" preserves thin lines.
        """
        align = None if mode == "area" else False
        maps = photo_map[None, None]
        if self.resized != (self.side, self.side):
            inside = F.interpolate(maps, self.resized, mode=mode, align_corners=align)
            maps = self._in_square(inside, value)
        return F.interpolate(maps, (cells, cells), mode=mode, align_corners=align)[0, 0]

    def _in_square(self, maps: Tensor, value: float) -> Tensor:
        """Pad (1, K, *resized) maps to (1, K, side, side): edges replicated in the border, then `value`."""
        if self.border:
            maps = F.pad(maps, (self.border,) * 4, mode="replicate")
        height, width = maps.shape[-2:]
        return F.pad(maps, (0, self.side - width, 0, self.side - height), value=value)


def bounding_box(mask: Tensor) -> Tensor | None:
    """Return the tight box of an (H, W) bool mask: (4,) int64 XYXY of its first and last pixels, inclusive.

    None if the mask is empty.
    """
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if rows.numel() == 0:
        return None
    return torch.stack([columns[0], rows[0], columns[-1], rows[-1]])
