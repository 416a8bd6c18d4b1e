"""MobileSAM (Zhang et al. 2023, arXiv 2306.14289): SAM's prompt encoder and mask decoder on top of a TinyViT."""

from typing import Any, Final, cast

from segment_anything.modeling import Sam
from torch import Tensor, nn

from persam_dreambooth.segmentation.backbones.published import State, renamed
from persam_dreambooth.segmentation.backbones.small_sam import neck, small_sam

KNOWN_BY: Final = "image_encoder.patch_embed.seq.0.c.weight"
"""A weight of `mobile_sam.pt` that other SAMs do not have."""
RENAMED: Final = (
    (r"^image_encoder\.(?!neck)", "image_encoder.trunk."),
    (r"patch_embed\.seq\.0", "patch_embed.conv1"),
    (r"patch_embed\.seq\.2", "patch_embed.conv2"),
    # A transition between stages ends the authors' stage and begins timm's.
    (r"trunk\.layers\.0\.downsample", "trunk.stages.1.downsample"),
    (r"trunk\.layers\.1\.downsample", "trunk.stages.2.downsample"),
    (r"trunk\.layers\.2\.downsample", "trunk.stages.3.downsample"),
    (r"trunk\.layers", "trunk.stages"),
    (r"(trunk\..*)\.c\.", r"\1.conv."),
    # The classification head of pretraining; it is loaded but not used.
    (r"trunk\.head\.", "trunk.head.fc."),
    (r"trunk\.norm_head\.", "trunk.head.norm."),
)
"""The authors' names of weights to ours; see `renamed`."""


def build_mobile_sam(side: int = 1024) -> Sam:
    """Build a MobileSAM without pretrained weights for `side` x `side` pixels."""
    return small_sam(TinyViT(side), side)


def from_published(state: State) -> tuple[Sam, dict[str, Tensor]]:
    """Build the model of `mobile_sam.pt`, and return it with the file's weights under the model's names."""
    return build_mobile_sam(), renamed(state, RENAMED)


class TinyViT(nn.Module):
    """MobileSAM's image encoder: timm's TinyViT, whose last stage keeps the resolution of the third, and a neck.

    Args:
        side: of the square input, in pixels.
    """

    def __init__(self, side: int) -> None:
        from timm.models import tiny_vit  # takes seconds to import

        super().__init__()
        self.img_size = side
        self.trunk = trunk = cast(Any, tiny_vit).tiny_vit_5m_224(num_classes=1000)
        trunk.stages[-1].downsample.conv2.conv.stride = (1, 1)
        self.neck = neck(trunk.num_features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, S, S) images as (B, 256, S / 16, S / 16)."""
        features: Tensor = self.neck(self.trunk.forward_features(pixels))
        return features
