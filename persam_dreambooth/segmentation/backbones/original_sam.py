"""Backbone for the segment-anything package's `Sam`."""

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from persam_dreambooth.segmentation.backbones.base import Backbone, Prompts


class OriginalSam(Backbone):
    """A `segment_anything.modeling.Sam`.

    Args:
        model: of any size; it is frozen and moved to the device.
        name: stored in the subject.
        device: None uses an accelerator if there is one.
        dtype: of the image encoder.
    """

    def __init__(
        self,
        model: Sam,
        name: str,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(model, model.image_encoder, model.image_encoder.img_size, name, device, dtype)

    def _decode(
        self, embedding: Tensor, prompts: Prompts, multimask: bool, extra: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        sparse, dense = self._model.prompt_encoder(
            points=(prompts.points[None], prompts.labels[None]),
            boxes=None if prompts.box is None else prompts.box[None],
            masks=None if prompts.mask is None else prompts.mask[None, None],
        )
        logits, predicted_iou = self._model.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=self._model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        return logits[0], predicted_iou[0]
