"""Features of DINOv2 or DINOv3, to use instead of SAM's for the confidence map (equations 4 to 7)."""

from copy import copy
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor
from transformers import Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel

from persam_dreambooth.errors import UserError
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
        name: the name the user gave it, for messages.
    """

    stretch = False

    def __init__(
        self,
        model: Dinov2Model | Dinov2WithRegistersModel | DINOv3ViTModel,
        cells: int = CELLS,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        name: str = "the DINO",
    ) -> None:
        self.device, self.cells, self.dtype, self.name = choose_device(device), cells, dtype, name
        self.checksum = weights_checksum(model)
        untyped: Any = model
        self._model = untyped.eval().requires_grad_(False).to(self.device, dtype)
        self.image_size: int = cells * untyped.config.patch_size

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        image_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load by hub name ("facebook/dinov2-base") or from a folder.

        Args:
            source: the name or the folder.
            image_size: side of the square in pixels, a multiple of the patch size; None for 64 patches.
            device: see the class.
            dtype: see the class.

        Raises:
            UserError: nothing found, not a complete DINO, or `image_size` is not a multiple of the patch size.
        """
        model, _ = load_pretrained(str(source), CLASSES, "DINO", "facebook/dinov2-base")
        patch = model.config.patch_size
        size = CELLS * patch if image_size is None else image_size
        if size < patch or size % patch:
            raise UserError(
                f"a square of {size} pixels is not a multiple of the {patch}-pixel patches of {source}; "
                f"give {max(1, round(size / patch)) * patch}"
            )
        return cls(model, size // patch, device, dtype, str(source))

    def squeezing(self) -> Self:
        """Return an encoder with the same weights that squeezes photos into the square instead of padding them."""
        other = copy(self)
        other.stretch = True
        return other

    def frame(self, height: int, width: int) -> Frame:
        """Place a photo of that size in this encoder's square."""
        return Frame(height, width, self.image_size, self.stretch)

    def encode_with_extra(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode images as `encode` does, in the form of `Backbone.encode_with_extra`."""
        return self.encode(images), ()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode (B, 3, S, S) float32 images from `Frame.pixels` as (B, C, cells, cells) float32 features."""
        tokens = self._model(images.to(self.device, self.dtype)).last_hidden_state  # (B, 1 + registers + cells^2, C)
        patches: Tensor = tokens[:, -(self.cells**2) :].float()
        return patches.transpose(1, 2).reshape(len(images), -1, self.cells, self.cells)
