"""SegGPT, an alternative to PerSAM for one-shot segmentation.

It inpaints the mask of a photo below the reference mask (Wang et al. 2023, arXiv 2304.03284). There are no points,
no confidence map and no predicted IoU.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import SegGptForImageSegmentation, SegGptImageProcessor

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.encoding import check_finite
from persam_dreambooth.segmentation.pretrained import load_pretrained
from persam_dreambooth.segmentation.types import Picture, Reference, rgb_array
from persam_dreambooth.torch_utils import choose_device


class SegGpt:
    """A `transformers.SegGptForImageSegmentation` that segments the subject of the references.

    Args:
        model: of any size; it is frozen and moved to the device.
        device: None uses an accelerator if there is one.
    """

    def __init__(self, model: SegGptForImageSegmentation, device: torch.device | str | None = None) -> None:
        self.device = choose_device(device)
        untyped: Any = model
        self._model = untyped.eval().requires_grad_(False).to(self.device)
        both, width = untyped.config.image_size  # the reference on top, the photo below
        self._processor: Any = SegGptImageProcessor(size={"height": both // 2, "width": width})

    @classmethod
    def from_pretrained(cls, source: str | Path, device: torch.device | str | None = None) -> Self:
        """Load by hub name ("BAAI/seggpt-vit-large") or from a folder.

        Raises:
            UserError: nothing found, or not a complete SegGPT.
        """
        model, _ = load_pretrained(
            str(source), {"seggpt": SegGptForImageSegmentation}, "SegGPT", "BAAI/seggpt-vit-large"
        )
        return cls(model, device)

    @torch.no_grad()
    def segment(
        self, images: Sequence[Picture], references: Reference | Sequence[Reference]
    ) -> list[NDArray[np.bool_]]:
        """Segment the subject of the references, one photo at a time.

        Args:
            images: photos of any sizes; each is stretched to the model's input size.
            references: one, or several of the same subject, whose predictions are averaged.

        Returns:
            One mask per photo, (H, W) bool in the frame of the upright photo.

        Raises:
            UserError: no reference.
        """
        references = [references] if isinstance(references, Reference) else list(references)
        if not references:
            raise UserError("SegGPT got no reference; give at least one photo with its mask")
        prompt = self._processor(
            None,
            prompt_images=[reference.pixels for reference in references],
            prompt_masks=[reference.foreground.astype(np.uint8) for reference in references],
            num_labels=1,  # black for 0, white for 1
            input_data_format="channels_last",
            return_tensors="pt",
        ).to(self.device)
        return [self._segment_photo(rgb_array(image), prompt, len(references)) for image in images]

    def _segment_photo(self, image: NDArray[np.uint8], prompt: Any, references: int) -> NDArray[np.bool_]:
        """Predict one photo's mask below each of the references, and average the predictions.

        The class's own `feature_ensemble` is not used: it mixes photos with masks in layer `merge_index`.
        """
        pixels = self._processor(images=image, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        output = self._model(
            pixel_values=pixels.to(self.device).expand(references, -1, -1, -1),
            **prompt,
        )
        output.pred_masks = output.pred_masks.mean(0, keepdim=True)
        check_finite(output.pred_masks, "SegGPT")
        found = self._processor.post_process_semantic_segmentation(output, [image.shape[:2]], num_labels=1)[0]
        mask: NDArray[np.bool_] = (found == 1).cpu().numpy()
        return mask
