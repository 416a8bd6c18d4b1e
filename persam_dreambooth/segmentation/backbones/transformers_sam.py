"""Any `SamModel` of transformers as a backbone."""

import torch
from torch import Tensor
from transformers import SamModel

from persam_dreambooth.segmentation.backbones.base import FrozenSam, Prompts
from persam_dreambooth.segmentation.guidance import Guidance, guided


class TransformersSam(FrozenSam):
    """A `transformers.SamModel` behind the `Backbone` protocol.

    Args:
        model: any size; it is frozen and moved.
        name: what the subject remembers.
        device: None takes an accelerator where there is one.
        dtype: of the image encoder.
    """

    def __init__(
        self,
        model: SamModel,
        name: str,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(model, model.vision_encoder, model.prompt_encoder.input_image_size, name, device, dtype)
        self._model = model

    @torch.no_grad()
    def decode(
        self, embedding: Tensor, prompts: Prompts, multimask: bool, guidance: Guidance | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Backbone.decode`."""
        with guided(self._model.mask_decoder, guidance):
            output = self._model(
                image_embeddings=embedding[None],
                input_points=prompts.points[None, None],
                input_labels=prompts.labels[None, None],
                input_boxes=None if prompts.box is None else prompts.box[None, None],
                input_masks=None if prompts.mask is None else prompts.mask[None, None],
                multimask_output=multimask,
            )
        return output.pred_masks[0, 0], output.iou_scores[0, 0]
