"""DINOv2's or DINOv3's features instead of SAM's for the confidence map (equations 4 to 7)."""

from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor
from transformers import Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel

from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.pretrained import load_pretrained
from persam_dreambooth.torch_utils import choose_device, weights_checksum

CLASSES: Final[dict[str, type[Any]]] = {
    "dinov2": Dinov2Model,
    "dinov2_with_registers": Dinov2WithRegistersModel,
    "dinov3_vit": DINOv3ViTModel,
}
CELLS: Final = 64
"""Cells along one side of the grid, the same as SAM's."""


class FeatureEncoder:
    """Dense patch features from the last layer of a vision transformer.

    Photos are preprocessed as for SAM: at the top left of the square, padded, normalized with the same statistics
    (those of ImageNet, which DINOv2 and DINOv3's web-image checkpoints were trained with).

    Args:
        model: a DINO of any size; it is frozen and moved to the device.
        cells: number of cells along one side of the grid; the square is that many patches wide.
        device: None uses an accelerator if there is one.
        dtype: of the weights and activations.
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
        """Load by hub name ("facebook/dinov2-base") or from a folder.

        Raises:
            UserError: nothing found, or not a complete DINO.
        """
        model, _ = load_pretrained(str(source), CLASSES, "DINO", "facebook/dinov2-base")
        return cls(model, cells, device, dtype)

    def frame(self, height: int, width: int) -> Frame:
        """Place a photo of that size in this encoder's square."""
        return Frame(height, width, self.image_size)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode (B, 3, S, S) float32 images from `Frame.pixels` as (B, C, cells, cells) float32 features."""
        tokens = self._model(images.to(self.device, self.dtype)).last_hidden_state  # (B, 1 + registers + cells^2, C)
        patches: Tensor = tokens[:, -(self.cells**2) :].float()
        return patches.transpose(1, 2).reshape(len(images), -1, self.cells, self.cells)
