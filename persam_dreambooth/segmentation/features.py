"""DINOv2's or DINOv3's features instead of SAM's for the confidence map (equations 4 to 7)."""

from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor
from transformers import Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel

from persam_dreambooth.devices import choose_device
from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.pretrained import load_pretrained
from persam_dreambooth.torch_utils import weights_checksum

CLASSES: Final[dict[str, type[Any]]] = {
    "dinov2": Dinov2Model,
    "dinov2_with_registers": Dinov2WithRegistersModel,
    "dinov3_vit": DINOv3ViTModel,
}
CELLS: Final = 64
"""Cells along one side of the grid: as many as SAM has."""


class FeatureEncoder:
    """A vision transformer whose last layer says what is where.

    Photos lie in its square as in SAM's: at the top left, padded, normalized with the same statistics
    (those of ImageNet, with which DINOv2 and DINOv3's web-image checkpoints were trained).

    Args:
        model: a DINO of any size; it is frozen and moved.
        cells: along one side of its grid; the square is that many patches wide.
        device: None takes an accelerator where there is one.
        dtype: of its weights and arithmetic.
    """

    def __init__(
        self,
        model: Dinov2Model | Dinov2WithRegistersModel | DINOv3ViTModel,
        cells: int = CELLS,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device, self.cells, self.dtype = choose_device(device), cells, dtype
        self.checksum = weights_checksum(model)
        untyped: Any = model
        self._model = untyped.eval().requires_grad_(False).to(self.device, dtype)
        self.image_size: int = cells * untyped.config.patch_size

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        cells: int = CELLS,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """By hub name ("facebook/dinov2-base") or folder.

        Raises:
            UserError: nothing there, or not a whole DINO.
        """
        model, _ = load_pretrained(str(source), CLASSES, "DINO", "facebook/dinov2-base")
        return cls(model, cells, device, dtype)

    def frame(self, height: int, width: int) -> Frame:
        """Where a photo of that size lies in this encoder's square."""
        return Frame(height, width, self.image_size)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) float32 as `Frame.pixels` makes them, to (B, C, cells, cells) float32 features."""
        tokens = self._model(images.to(self.device, self.dtype)).last_hidden_state  # (B, 1 + registers + cells^2, C)
        patches: Tensor = tokens[:, -(self.cells**2) :].float()
        return patches.transpose(1, 2).reshape(len(images), -1, self.cells, self.cells)
