"""Backbones for transformers' SAM, SAM-HQ, SAM 2, EdgeTAM and SAM 3 tracker, and a SAM with a larger input."""

from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import EdgeTamModel, Sam2Model, Sam3TrackerModel, SamHQModel, SamModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.backbones.base import Backbone, Prompts

TransformersModel = SamModel | SamHQModel | Sam2Model | EdgeTamModel | Sam3TrackerModel

# SAM 2's own predictor clamps logits to this range before it reuses them as a mask prompt.
SAM2_MASK_PROMPT_LIMIT = 32.0


class TransformersSam(Backbone):
    """A `transformers.SamModel`.

    Args:
        model: of any size; it is frozen and moved to the device.
        name: stored in the subject.
        device: None uses an accelerator if there is one.
        dtype: of the image encoder.
    """

    def __init__(
        self,
        model: TransformersModel,
        name: str,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        side = model.prompt_encoder.input_image_size
        assert isinstance(side, int)  # the configs also allow pairs; the models do not
        super().__init__(model, model.vision_encoder, side, name, device, dtype)

    def _decode(
        self, embedding: Tensor, prompts: Prompts, multimask: bool, extra: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        prompts = self._limited(prompts)
        output = self._model(
            **self._photo(embedding[None], [level[None] for level in extra]),
            input_points=prompts.points[None, None],
            input_labels=prompts.labels[None, None],
            input_boxes=None if prompts.box is None else prompts.box[None, None],
            input_masks=None if prompts.mask is None else prompts.mask[None, None],
            multimask_output=multimask,
        )
        return output.pred_masks[0, 0], output.iou_scores[0, 0]

    def _photo(self, embedding: Tensor, extra: list[Tensor]) -> dict[str, Any]:
        """Return the model's keyword arguments for an encoded photo; all tensors (1, C, h, w)."""
        return {"image_embeddings": embedding}

    def _limited(self, prompts: Prompts) -> Prompts:
        """Clamp the prompts to the range that this model was trained with."""
        return prompts


class TransformersSamHQ(TransformersSam):
    """A `transformers.SamHQModel`: a SAM with an additional mask token that uses an early layer's features.

    Its masks are the sum of SAM's and the high-quality one, the default of its authors.
    """

    def _split(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        features, early = output[:2]  # early: one per global layer, (B, h, w, width); the decoder uses the first
        return features.float(), (early[0].float(),)

    def _photo(self, embedding: Tensor, extra: list[Tensor]) -> dict[str, Any]:
        return {"image_embeddings": embedding, "intermediate_embeddings": extra}

    def _decode(
        self, embedding: Tensor, prompts: Prompts, multimask: bool, extra: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        predicted: list[Tensor] = []  # (1, 1, 4): of the single mask and of the three
        head = self._model.mask_decoder.iou_prediction_head
        with head.register_forward_hook(lambda module, args, output: predicted.append(output)):
            logits, scores = super()._decode(embedding, prompts, multimask, extra)
        if not multimask:
            return logits, scores
        # The decoder sorts its masks by score; PerSAM-F weights whole, part and sub-part, so restore their order.
        order = predicted[0][0, 0, 1:].sort(descending=True).indices.argsort()
        return logits[order], scores[order]


class TransformersSam2(TransformersSam):
    """A `transformers.Sam2Model` (SAM 2 and 2.1) or `EdgeTamModel`, on single photos.

    Photos are stretched to the square. The decoder also takes two finer levels of the image encoder.
    An unstable single mask is replaced by the best of the three, as in SAM 2.
    """

    stretch: ClassVar[bool] = True

    def _split(self, output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        # SAM 3 has a fourth, coarser level, which its tracker does not use.
        finest, finer, features = (level.float() for level in output.fpn_hidden_states[:3])
        decoder = self._model.mask_decoder
        # The models add this embedding to frames without a memory.
        features = features + self._model.no_memory_embedding.view(1, -1, 1, 1)
        return features, (decoder.conv_s0(finest), decoder.conv_s1(finer))

    def _photo(self, embedding: Tensor, extra: list[Tensor]) -> dict[str, Any]:
        return {"image_embeddings": [*extra, embedding]}

    def _limited(self, prompts: Prompts) -> Prompts:
        if prompts.mask is None:
            return prompts
        return replace(prompts, mask=prompts.mask.clamp(-SAM2_MASK_PROMPT_LIMIT, SAM2_MASK_PROMPT_LIMIT))


class TransformersSam3(TransformersSam2):
    """A `transformers.Sam3TrackerModel`, the part of SAM 3 that takes points, boxes and masks."""

    mean: ClassVar[tuple[float, float, float]] = (127.5, 127.5, 127.5)
    std: ClassVar[tuple[float, float, float]] = (127.5, 127.5, 127.5)


# config.json's model_type -> model class and backbone class. The video models contain the same image parts.
FAMILIES: dict[str, tuple[type[Any], type[TransformersSam]]] = {
    "sam": (SamModel, TransformersSam),
    "sam_hq": (SamHQModel, TransformersSamHQ),
    "sam2": (Sam2Model, TransformersSam2),
    "sam2_video": (Sam2Model, TransformersSam2),
    "edgetam": (EdgeTamModel, TransformersSam2),
    "edgetam_video": (EdgeTamModel, TransformersSam2),
    "sam3_tracker": (Sam3TrackerModel, TransformersSam3),
    "sam3_video": (Sam3TrackerModel, TransformersSam3),
}


def with_larger_input(model: SamModel, side: int) -> SamModel:
    """Return a copy of a SAM for a larger square than it was trained with, its position embeddings interpolated.

    Args:
        model: a `transformers.SamModel`.
        side: of the new square in pixels, a multiple of the patch size (16 for the published SAMs).

    Raises:
        UserError: the side is not larger than the model's, or not a multiple of its patch size.
    """
    config: Any = deepcopy(model.config)
    trained, patch = config.vision_config.image_size, config.vision_config.patch_size
    if side <= trained or side % patch:
        raise UserError(
            f"a SAM trained at {trained} pixels cannot run at {side}; give a multiple of {patch} above {trained}"
        )
    cells = side // patch
    config.vision_config.image_size = config.prompt_encoder_config.image_size = side
    config.prompt_encoder_config.image_embedding_size = cells
    state = dict(model.state_dict())
    position = "vision_encoder.pos_embed"
    if position in state:
        grid = state[position].permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (cells, cells), mode="bicubic", align_corners=False)
        state[position] = grid.permute(0, 2, 3, 1)
    for number in config.vision_config.global_attn_indexes:  # windows keep their size
        for axis in ("h", "w"):
            name = f"vision_encoder.layers.{number}.attn.rel_pos_{axis}"
            if name in state:
                state[name] = F.interpolate(state[name].T[None], 2 * cells - 1, mode="linear")[0].T
    larger: Any = SamModel(config)
    larger.load_state_dict(state)
    built: SamModel = larger.to(model.dtype).eval()
    return built
