"""SegGPT: another way from one photo and one mask to the masks of other photos, beside PerSAM.

It paints the mask of a photo into an empty field below the reference mask (Wang et al. 2023, arXiv 2304.03284).
There are no points, no confidence map and no predicted quality.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import SegGptForImageSegmentation, SegGptImageProcessor

from persam_dreambooth.devices import choose_device
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.encoding import check_finite
from persam_dreambooth.segmentation.pretrained import load_pretrained
from persam_dreambooth.segmentation.types import Picture, Reference, rgb_array


class SegGpt:
    """A `transformers.SegGptForImageSegmentation` that segments what the references show.

    Args:
        model: of any size; it is frozen and moved.
        device: None takes an accelerator where there is one.
    """

    def __init__(self, model: SegGptForImageSegmentation, device: torch.device | str | None = None) -> None:
        self.device = choose_device(device)
        untyped: Any = model
        self._model = untyped.eval().requires_grad_(False).to(self.device)
        both, width = untyped.config.image_size  # the reference above, the photo below
        self._processor: Any = SegGptImageProcessor(size={"height": both // 2, "width": width})

    @classmethod
    def from_pretrained(cls, source: str | Path, device: torch.device | str | None = None) -> Self:
        """By hub name ("BAAI/seggpt-vit-large") or folder.

        Raises:
            UserError: nothing there, or not a whole SegGPT.
        """
        model, _ = load_pretrained(
            str(source), {"seggpt": SegGptForImageSegmentation}, "SegGPT", "BAAI/seggpt-vit-large"
        )
        return cls(model, device)

    @torch.no_grad()
    def segment(
        self, images: Sequence[Picture], references: Reference | Sequence[Reference]
    ) -> list[NDArray[np.bool_]]:
        """Find what the references show, one photo at a time.

        Args:
            images: photos of any sizes; each is stretched to the model's own.
            references: one, or several of the same subject, whose paintings are averaged.

        Returns:
            A mask for each photo, (H, W) bool in the frame of the upright photo.

        Raises:
            UserError: no reference.
        """
        references = [references] if isinstance(references, Reference) else list(references)
        if not references:
            raise UserError("SegGPT was given no reference; give at least one photo with its mask")
        told = self._processor(
            None,
            prompt_images=[reference.pixels for reference in references],
            prompt_masks=[reference.foreground.astype(np.uint8) for reference in references],
            num_labels=1,  # black for 0, white for 1
            input_data_format="channels_last",
            return_tensors="pt",
        ).to(self.device)
        return [self._one(rgb_array(image), told, len(references)) for image in images]

    def _one(self, image: NDArray[np.uint8], told: Any, references: int) -> NDArray[np.bool_]:
        """One photo below each of the references, and the mean of what is painted there.

        Averaged here, not by the class's `feature_ensemble`, which mixes photos with masks in layer `merge_index`.
        """
        pixels = self._processor(images=image, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        output = self._model(
            pixel_values=pixels.to(self.device).expand(references, -1, -1, -1),
            **told,
        )
        output.pred_masks = output.pred_masks.mean(0, keepdim=True)
        check_finite(output.pred_masks, "SegGPT")
        found = self._processor.post_process_semantic_segmentation(output, [image.shape[:2]], num_labels=1)[0]
        mask: NDArray[np.bool_] = (found == 1).cpu().numpy()
        return mask
