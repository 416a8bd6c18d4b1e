"""EdgeSAM (Zhou et al. 2023, arXiv 2312.06660): SAM's prompt encoder and mask decoder on top of a RepViT."""

from typing import Any, Final, cast

import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

from persam_dreambooth.segmentation.backbones.published import Rules, State, renamed
from persam_dreambooth.segmentation.backbones.small_sam import WIDTH, neck, small_sam

KNOWN_BY: Final = "image_encoder.fuse_stage2.weight"
"""A weight of `edge_sam.pth` and `edge_sam_3x.pth` that other SAMs do not have."""
BLOCKS: Final = (3, 3, 15, 2)
"""Number of blocks of each stage, without the transition to the next stage."""


def build_edge_sam(side: int = 1024) -> Sam:
    """Build an EdgeSAM without pretrained weights for `side` x `side` pixels, a multiple of 32."""
    return small_sam(RepViT(side), side)


def from_published(state: State) -> tuple[Sam, dict[str, Tensor]]:
    """Build the model of `edge_sam.pth`, and return it with the file's weights under the model's names."""
    return build_edge_sam(), renamed(state, _rules())


class RepViT(nn.Module):
    """EdgeSAM's image encoder: timm's RepViT-M1, whose last two stages are summed, and a neck.

    Args:
        side: of the square input, in pixels.
    """

    def __init__(self, side: int) -> None:
        from timm.models import repvit  # takes seconds to import

        super().__init__()
        self.img_size = side
        self.trunk = trunk = cast(Any, repvit).repvit_m1(num_classes=0)
        # timm assigns a stage's last block to the next stage's transition; EdgeSAM takes the features after the block.
        for stage, following in zip(trunk.stages, trunk.stages[1:], strict=False):
            stage.blocks.append(following.downsample.pre_block)
            following.downsample.pre_block = nn.Identity()
        third, last = (trunk.feature_info[stage]["num_chs"] for stage in (2, 3))
        self.fuse_stage2 = nn.Conv2d(third, WIDTH, 1, bias=False)
        self.fuse_stage3 = nn.Conv2d(last, WIDTH, 1, bias=False)
        self.neck = neck(WIDTH)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, S, S) images as (B, 256, S / 16, S / 16)."""
        third = self.trunk.stages[:3](self.trunk.stem(pixels))
        last = self.fuse_stage3(self.trunk.stages[3](third))
        enlarged = F.interpolate(last, scale_factor=2, mode="bicubic", align_corners=False)
        features: Tensor = self.neck(self.fuse_stage2(third) + enlarged)
        return features


def _rules() -> list[tuple[str, str]]:
    """Return the rules of `renamed` from the authors' names, which number blocks across all stages, to ours."""
    inside_block = (
        (r"token_mixer\.0", "token_mixer"),
        (r"token_mixer\.1", "se"),
        (r"channel_mixer\.m\.0", "channel_mixer.conv1"),
        (r"channel_mixer\.m\.2", "channel_mixer.conv2"),
    )
    inside_transition = (
        (r"token_mixer\.0", "spatial_downsample"),
        (r"token_mixer\.2", "channel_downsample"),
        (r"channel_mixer\.m\.0", "ffn.conv1"),
        (r"channel_mixer\.m\.2", "ffn.conv2"),
    )
    places: list[tuple[str, Rules]] = [("stem", ((r"0", "conv1"), (r"2", "conv2")))]
    for stage, blocks in enumerate(BLOCKS):
        if stage:
            places.append((f"stages.{stage}.downsample", inside_transition))
        places += [(f"stages.{stage}.blocks.{number}", inside_block) for number in range(blocks)]
    rules = [(r"fuse_stage3\.op_list\.0", "fuse_stage3")]
    for number, (place, inside) in enumerate(places):
        rules += [
            (rf"^image_encoder\.features\.{number}\.{old}\.", f"image_encoder.trunk.{place}.{new}.")
            for old, new in inside
        ]
    return rules
