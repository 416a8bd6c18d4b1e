"""Load a one-shot method: PerSAM, PerSAM-F, INSID3, INSID3 with SAM, or SegGPT."""

from pathlib import Path
from typing import Final

import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.method_names import WITHOUT_SAM
from persam_dreambooth.segmentation.backbones import load_backbone
from persam_dreambooth.segmentation.crops import CropSearch, check_crops
from persam_dreambooth.segmentation.features import FeatureEncoder
from persam_dreambooth.segmentation.insid3 import INSID3
from persam_dreambooth.segmentation.insid3_sam import Insid3Sam
from persam_dreambooth.segmentation.method import AnyMethod, Insid3Method, SegGptMethod
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.persam import PerSAM
from persam_dreambooth.segmentation.seggpt import SegGPT

DINO: Final = "facebook/dinov3-vitl16-pretrain-lvd1689m"
"""INSID3's encoder in its paper."""


def load_segmenter(
    method: AnyMethod,
    sam: str,
    features: str | None = None,
    features_size: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    cache: Path | str | None = None,
    sam_size: int | None = None,
    crop_n_layers: int = 0,
) -> OneShotSegmenter:
    """Load what a method needs; a SAM only where the method has one.

    Args:
        method: the method and its settings.
        sam: hub name, folder or `.pth` file of the SAM.
        features: hub name or folder of a DINO; for PerSAM None uses the SAM's features, for INSID3 `DINO`. SegGPT's
            model is named by its method.
        features_size: side of the square that the DINO sees, in pixels; None for 64 patches.
        device: None uses an accelerator if there is one.
        dtype: of the SAM's image encoder; the DINO runs in float32.
        cache: folder that keeps encoded photos; see `PhotoEncoder`. SegGPT encodes nothing.
        sam_size: side of a larger square for the SAM, in pixels; see `load_backbone`.
        crop_n_layers: layers of crops that are searched too; see `CropSearch`.

    Raises:
        UserError: a model cannot be read, `features_size` does not fit it, or an argument would have no effect on the
            method: SegGPT has no DINO, cache or crops, a method without a SAM no `sam_size`, and PerSAM no
            `features_size` without `features`.
    """
    if sam_size and method.name in WITHOUT_SAM:
        raise UserError(f"sam_size {sam_size} is for methods with a SAM; leave it out")
    if crop_n_layers:
        check_crops(method, crop_n_layers)  # before a model is loaded
    segmenter = _load(method, sam, features, features_size, device, dtype, cache, sam_size)
    return CropSearch(segmenter, crop_n_layers) if crop_n_layers else segmenter


def _load(
    method: AnyMethod,
    sam: str,
    features: str | None,
    features_size: int | None,
    device: torch.device | str | None,
    dtype: torch.dtype,
    cache: Path | str | None,
    sam_size: int | None,
) -> OneShotSegmenter:
    """Load the method itself; arguments and errors as in `load_segmenter`."""
    if isinstance(method, SegGptMethod):
        if features or features_size or cache:
            raise UserError("SegGPT has no DINO and nothing to cache; leave out features, their size and the cache")
        return SegGPT.from_pretrained(method.model, method, device)
    if isinstance(method, Insid3Method):
        insid3 = INSID3.from_pretrained(features or DINO, method, device, image_size=features_size, cache=cache)
        if not method.with_sam:
            return insid3
        return Insid3Sam(insid3, load_backbone(sam, device, dtype, sam_size), cache)
    if features_size and not features:
        raise UserError(f"features_size {features_size} is a DINO's; give features too, or leave it out")
    encoder = FeatureEncoder.from_pretrained(features, features_size, device) if features else None
    return PerSAM.from_pretrained(sam, method, device, dtype, encoder, cache, sam_size)
