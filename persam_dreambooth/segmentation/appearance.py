"""Appearance similarity of two cut-out subjects: cosine of an image encoder's features (CLIP or DINO)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, ViTModel

from persam_dreambooth.segmentation import features
from persam_dreambooth.segmentation.encoding import check_finite
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.pretrained import load_image_processor, load_pretrained
from persam_dreambooth.segmentation.types import Picture, rgb_array
from persam_dreambooth.torch_utils import choose_device, weights_checksum


class OriginalDino:
    """Load the original DINO ("facebook/dino-vits16"): a plain ViT whose checkpoints have no pooler."""

    @staticmethod
    def from_pretrained(name: str, **settings: Any) -> Any:
        """See `ViTModel.from_pretrained`."""
        return ViTModel.from_pretrained(name, add_pooling_layer=False, **settings)


CLASSES: Final[dict[str, type[Any]]] = {"clip": CLIPModel, "vit": OriginalDino, **features.CLASSES}
GREY: Final = 128
"""Fill value of the background, in uint8 levels."""

LARGEST_CUT_OUT: Final = 1024
"""Cut-outs up to this side in pixels are never downscaled; larger ones get at most 2.25 times the photo's pixels."""


class ImageEncoder:
    """A vision transformer that embeds an image as one vector.

    Args:
        model: a model of one of `CLASSES`, of any size; it is frozen and moved to the device.
        processor: the model's transformers image processor.
        device: None uses an accelerator if there is one.
    """

    def __init__(self, model: Any, processor: Any, device: torch.device | str | None = None) -> None:
        self.device, self.processor = choose_device(device), processor
        self.checksum = weights_checksum(model)
        self.model = model.eval().requires_grad_(False).to(self.device, torch.float32)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: torch.device | str | None = None) -> Self:
        """Load by hub name ("facebook/dinov2-base", "openai/clip-vit-large-patch14") or from a folder.

        Raises:
            UserError: nothing found, another kind of model, or no preprocessor_config.json.
        """
        model, _ = load_pretrained(str(source), CLASSES, "CLIP or DINO", "facebook/dinov2-base")
        return cls(model, load_image_processor(str(source)), device)

    @torch.no_grad()
    def encode(self, pictures: Sequence[Picture]) -> Tensor:
        """Encode n images as (n, C) float32 unit-length features: CLIP's projected ones, or DINO's class token."""
        images = [Image.fromarray(rgb_array(picture)) for picture in pictures]
        inputs = self.processor(images, return_tensors="pt").to(self.device)
        output = getattr(self.model, "get_image_features", self.model)(**inputs)
        features = output.last_hidden_state[:, 0] if output.pooler_output is None else output.pooler_output
        check_finite(features, "the image encoder")
        return torch.nn.functional.normalize(features.float(), dim=-1)


def cut_out(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Image.Image:
    """Cut the subject out and center it on the smallest grey square that holds its bounding box.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, not empty.
    """
    box = bounding_box(torch.from_numpy(mask))
    assert box is not None, "the mask must not be empty"
    left, top, right, bottom = box.tolist()
    subject = np.where(mask[..., None], pixels, np.uint8(GREY))[top : bottom + 1, left : right + 1]
    image = Image.fromarray(subject)
    side = max(image.size)
    largest = max(LARGEST_CUT_OUT, round(1.5 * mask.size**0.5))  # bounds the square around a long, narrow subject
    if side > largest:
        image, side = image.resize([max(1, edge * largest // side) for edge in image.size]), largest
    square = Image.new("RGB", (side, side), (GREY,) * 3)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
