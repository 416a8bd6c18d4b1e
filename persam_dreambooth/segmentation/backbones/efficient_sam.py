"""EfficientSAM (Xiong et al. 2023, arXiv 2312.00863): SAM's mask decoder on top of a plain ViT; no mask prompts."""

from typing import Any, Final

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, Sam
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from segment_anything.modeling.transformer import TwoWayAttentionBlock
from torch import Tensor, nn
from torchvision.ops import MLP

from persam_dreambooth.segmentation.backbones.base import Prompts
from persam_dreambooth.segmentation.backbones.original_sam import OriginalSam
from persam_dreambooth.segmentation.backbones.published import State, renamed
from persam_dreambooth.segmentation.backbones.small_sam import CELL, WIDTH, mask_decoder, neck

KNOWN_BY: Final = "prompt_encoder.invalid_points.weight"
"""A weight of `efficient_sam_vitt.pt` and `efficient_sam_vits.pt` that other SAMs do not have."""
MOST: Final = 6
"""Maximum number of points that the decoder was trained with; a box counts as two."""
PADDING, TOP_LEFT, BOTTOM_RIGHT = -1, 2, 3
"""Labels of points, in addition to 1 (on the subject) and 0 (on the background)."""
LABELS: Final = {
    PADDING: "prompt_encoder.invalid_points.weight",
    1: "prompt_encoder.point_embeddings.weight",
    TOP_LEFT: "prompt_encoder.bbox_top_left_embeddings.weight",
    BOTTOM_RIGHT: "prompt_encoder.bbox_bottom_right_embeddings.weight",
}
"""The authors' names of the labels' embeddings; the label 0 has none, so its embedding is zero."""
RENAMED: Final = (
    (r"^image_encoder\.(?!neck)", "image_encoder.trunk."),
    (r"transformer\.(.*)\.mlp\.layers\.0\.0\.", r"transformer.\1.mlp.lin1."),
    (r"transformer\.(.*)\.mlp\.fc\.", r"transformer.\1.mlp.lin2."),
    (r"final_output_upscaling_layers\.0\.", "output_upscaling."),
    (r"final_output_upscaling_layers\.1\.0\.", "output_upscaling.3."),
    (r"(iou_prediction_head|mlps\.\d)\.layers\.0\.0\.", r"\1.0."),
    (r"(iou_prediction_head|mlps\.\d)\.layers\.1\.0\.", r"\1.3."),
    (r"(iou_prediction_head|mlps\.\d)\.fc\.", r"\1.6."),
)
"""The authors' names of weights to ours; see `renamed`."""


def build_efficient_sam(width: int, side: int = 1024) -> Sam:
    """Build an EfficientSAM without pretrained weights.

    Args:
        width: channels of the ViT, 192 for ViT-Ti and 384 for ViT-S.
        side: of the square input, in pixels; a multiple of 16.
    """
    return Sam(PlainViT(width, side), PointEncoder(side), _decoder())


def from_published(state: State, side: int = 1024) -> tuple[Sam, dict[str, Tensor]]:
    """Build the model of `efficient_sam_vitt.pt`, and return it with the file's weights under the model's names.

    The positional embedding, for 14 x 14 cells and a class token, is resized to the grid once; the authors' code does
    so for every photo.
    """
    weights = dict(state)
    position = weights.pop("image_encoder.pos_embed")[:, 1:]  # (1, 196, width)
    labels = {label: weights.pop(name) for label, name in LABELS.items()}
    labels[0] = torch.zeros_like(labels[1])
    weights = renamed(weights, RENAMED)
    weights["prompt_encoder.labels.weight"] = torch.cat([labels[label] for label in sorted(labels)])
    width, grid = position.shape[-1], side // CELL
    pretrained = round(position.shape[1] ** 0.5)
    square = position.transpose(1, 2).reshape(1, width, pretrained, pretrained)  # (1, width, 14, 14)
    resized = F.interpolate(square, (grid, grid), mode="bicubic", align_corners=False)
    weights["image_encoder.trunk.pos_embed"] = resized.flatten(2).transpose(1, 2)
    return build_efficient_sam(width, side), weights


class PlainViT(nn.Module):
    """EfficientSAM's image encoder: timm's ViT without class token and final norm, and a neck.

    Args:
        width: channels; 64 of them per head.
        side: of the square input, in pixels.
    """

    def __init__(self, width: int, side: int) -> None:
        from timm.models.vision_transformer import VisionTransformer  # takes seconds to import

        super().__init__()
        self.img_size = side
        self.trunk: Any = VisionTransformer(
            img_size=side,
            patch_size=CELL,
            embed_dim=width,
            num_heads=width // 64,
            class_token=False,
            num_classes=0,
            global_pool="",
        )
        self.trunk.norm = nn.Identity()
        self.neck = neck(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, S, S) images as (B, 256, S / 16, S / 16)."""
        tokens = self.trunk.forward_features(pixels).transpose(1, 2)  # (B, width, cells)
        features: Tensor = self.neck(tokens.unflatten(2, (self.img_size // CELL, -1)))
        return features


class PointEncoder(nn.Module):
    """EfficientSAM's prompt encoder: points only, always `MOST` of them.

    Args:
        side: of the square input, in pixels.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.pe_layer = PositionEmbeddingRandom(WIDTH // 2)
        self.labels = nn.Embedding(len(LABELS) + 1, WIDTH)

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        """Encode (1, n, 2) points (x, y) in the model frame and (1, n) labels as (1, `MOST`, 256) tokens."""
        missing = MOST - points.shape[1]  # if negative, padding drops the last points
        points = F.pad(points, (0, 0, 0, missing), value=-1.0)
        labels = F.pad(labels, (0, missing), value=PADDING)
        positions = self.pe_layer.forward_with_coords(points + 0.5, (self.side, self.side))
        tokens: Tensor = positions + self.labels(labels - PADDING)
        return tokens

    def get_dense_pe(self) -> Tensor:
        """Return the positional encoding of the grid, (1, 256, S / 16, S / 16)."""
        grid = self.side // CELL
        encoding: Tensor = self.pe_layer((grid, grid))[None]
        return encoding


class Block(TwoWayAttentionBlock):  # type: ignore[misc]
    """A block of the decoder's transformer.

    Unlike in SAM's, the values of self-attention include positions, and its residual is added in the first block too.
    """

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Update (B, tokens, C) queries and (B, h * w, C) keys, given positional encodings of the same shapes."""
        if not self.skip_first_layer_pe:
            queries = queries + query_pe
        queries = self.norm1(queries + self.self_attn(q=queries, k=queries, v=queries))
        placed = keys + key_pe
        queries = self.norm2(queries + self.cross_attn_token_to_image(q=queries + query_pe, k=placed, v=keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = self.norm4(keys + self.cross_attn_image_to_token(q=placed, k=queries + query_pe, v=queries))
        return queries, keys


def _decoder() -> MaskDecoder:
    """Build EfficientSAM's mask decoder: SAM's with other blocks, GELU in all MLPs, and a norm over the whole map."""
    decoder = mask_decoder(nn.GELU)
    decoder.transformer.layers = nn.ModuleList(
        Block(WIDTH, 8, 2048, nn.GELU, skip_first_layer_pe=first) for first in (True, False)
    )
    decoder.output_upscaling[1] = nn.GroupNorm(1, WIDTH // 4)
    masks = decoder.num_mask_tokens
    decoder.output_hypernetworks_mlps = nn.ModuleList(_mlp(WIDTH // 8) for _ in range(masks))
    decoder.iou_prediction_head = _mlp(masks)
    return decoder


def _mlp(outputs: int) -> MLP:
    return MLP(WIDTH, [WIDTH, WIDTH, outputs], activation_layer=nn.GELU)


class EfficientSam(OriginalSam):
    """An EfficientSAM on its device; photos are stretched to the square.

    It takes up to six points, of which a box uses two; further points are dropped, background points first. It has no
    mask prompts, so the passes of post-refinement are prompted with points and box only.
    """

    stretch = True

    def _decode(
        self, embedding: Tensor, prompts: Prompts, multimask: bool, extra: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        order = prompts.labels.argsort(descending=True, stable=True)
        points, labels = prompts.points[order], prompts.labels[order].long()
        if prompts.box is not None:
            points = torch.cat([prompts.box.view(2, 2), points])
            labels = torch.cat([labels.new_tensor([TOP_LEFT, BOTTOM_RIGHT]), labels])
        logits, predicted_iou = self._model.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=self._model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self._model.prompt_encoder(points[None], labels[None]),
            dense_prompt_embeddings=embedding.new_zeros(1),
            multimask_output=multimask,
        )
        return logits[0], predicted_iou[0]
