"""The base class of all SAM backbones; PerSAM never depends on which SAM it is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from persam_dreambooth.segmentation.frame import PIXEL_MEAN, PIXEL_STD, Frame
from persam_dreambooth.segmentation.guidance import Guidance, guided
from persam_dreambooth.torch_utils import choose_device, weights_checksum


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts of the mask decoder, in the model frame.

    Attributes:
        points: (N, 2) float32, (x, y).
        labels: (N,) int, 1 for positive and 0 for negative.
        box: (4,) float32 XYXY, or None.
        mask: (h, w) float32 low-resolution logits of an earlier pass, or None.
    """

    points: Tensor
    labels: Tensor
    box: Tensor | None = None
    mask: Tensor | None = None

    def to(self, device: torch.device) -> Self:
        """Return the same prompts on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)


class Backbone(ABC):
    """A frozen SAM on its device: an image encoder in the precision `dtype`, and a promptable mask decoder.

    Args:
        model: the SAM; its decoder stays in float32 (it costs little, and mask logits need it).
        encoder: its image encoder, the part that is converted to `dtype`.
        image_size: side of the square model frame, in pixels.
        name: the name the user gave it; stored in the subject.
        device: None uses an accelerator if there is one.
        dtype: of the encoder's weights and activations.

    Attributes:
        checksum: of the weights; a subject is only valid for the weights that made it.
    """

    stretch: ClassVar[bool] = False
    mean: ClassVar[tuple[float, float, float]] = PIXEL_MEAN
    std: ClassVar[tuple[float, float, float]] = PIXEL_STD

    def __init__(
        self,
        model: nn.Module,
        encoder: nn.Module,
        image_size: int,
        name: str,
        device: torch.device | str | None,
        dtype: torch.dtype,
    ) -> None:
        self.name, self.image_size, self.device = name, image_size, choose_device(device)
        self.checksum = weights_checksum(model)
        self._model: Any = model.eval().requires_grad_(False).to(device=self.device, dtype=torch.float32)
        self._encoder, self.dtype = encoder.to(dtype=dtype), dtype

    def frame(self, height: int, width: int) -> Frame:
        """Return how this backbone preprocesses a height x width photo: placement in the square and normalization."""
        return Frame(height, width, self.image_size, self.stretch, self.mean, self.std)

    def encode(self, images: Tensor) -> Tensor:
        """Encode (B, 3, S, S) float32 images from `Frame.pixels` as (B, C, h, w) float32 features F_I (equation 3)."""
        return self.encode_with_extra(images)[0]

    @torch.no_grad()
    def encode_with_extra(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the features and further float32 tensors that the decoder needs, batch first; often none."""
        return self._split(self._encoder(images.to(self.device, self.dtype)))

    @torch.no_grad()
    def decode(
        self,
        embedding: Tensor,
        prompts: Prompts,
        multimask: bool,
        guidance: Guidance | None = None,
        extra: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, Tensor]:
        """Predict masks for one image.

        Args:
            embedding: (C, h, w) float32.
            prompts: in the model frame, on any device.
            multimask: return three masks (whole, part, sub-part) instead of one.
            guidance: attached for this call only.
            extra: the further tensors from `encode_with_extra`, without the batch dimension.

        Returns:
            (K, h', w') float32 low-resolution logits over the model square and (K,) float32
            predicted IoU; K is 3 or 1.
        """
        with guided(self._model.mask_decoder, guidance):
            return self._decode(embedding, prompts.to(embedding.device), multimask, extra)

    def _split(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Split the encoder's output into features and extra tensors; overridden by families with extra tensors."""
        features: Tensor = output if isinstance(output, Tensor) else output[0]
        return features.float(), ()

    @abstractmethod
    def _decode(
        self, embedding: Tensor, prompts: Prompts, multimask: bool, extra: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Call the decoder; arguments and result as in `decode`."""
