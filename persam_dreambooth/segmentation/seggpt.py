"""SegGPT segments in context: it paints the mask of a photo below the masks of examples.

An example lies above the photo, and its mask above an empty canvas that the model fills (Wang et al. 2023, arXiv
2304.03284). Painter's weights run in the same way.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import SegGptForImageSegmentation

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.encoding import check_finite
from persam_dreambooth.segmentation.frame import PIXEL_MEAN, PIXEL_STD, Frame, bounding_box
from persam_dreambooth.segmentation.method import SegGptMethod
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.seggpt_ensemble import feature_ensemble, spatial_ensemble
from persam_dreambooth.segmentation.seggpt_weights import load_seggpt
from persam_dreambooth.segmentation.subject import Examples, Subject
from persam_dreambooth.segmentation.types import DecoderPass, EncodedPhoto, Picture, Reference, Segmentation, rgb_array
from persam_dreambooth.torch_utils import choose_device, weights_checksum

HALF = 127.5
"""Half of white: a pixel that is painted brighter belongs to the subject."""


class SegGPT(OneShotSegmenter):
    """Learn a subject from references and segment it in other photos with a SegGPT, without a SAM.

    Photos are only stretched to the model's square, `EncodedPhoto(embedding=RGB levels in [0, 255], frame)`, because
    the model sees them together with the subject's examples. In a `Segmentation`, the confidence map is the painted
    brightness, in [0, 1], and the logits are in [-1, 1]; there are no prompt points. The score is the soft IoU of the
    mask and the brightness: the sum of their minima over the sum of their maxima.

    Args:
        model: of any size; it is frozen and moved to the device.
        method: its settings.
        device: None uses an accelerator if there is one.
        name: the name that the user gave the model, for messages.

    Raises:
        UserError: the model's input is not two squares, the photo below an example.
    """

    label = "SegGPT"
    box_is_mask = True

    def __init__(
        self,
        model: SegGptForImageSegmentation,
        method: SegGptMethod | None = None,
        device: torch.device | str | None = None,
        name: str = "the SegGPT",
    ) -> None:
        self.method, self.name, self.device = method or SegGptMethod(), name, choose_device(device)
        self.checksum = weights_checksum(model)
        untyped: Any = model
        self._model = untyped.eval().requires_grad_(False).to(self.device)
        height, self.side = untyped.config.image_size
        if height != 2 * self.side:
            raise UserError(
                f"{name} sees {height} x {self.side} pixels, not two squares; use a SegGPT of another image_size"
            )
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD)
        )

    @classmethod
    def from_pretrained(
        cls, source: str | Path, method: SegGptMethod | None = None, device: torch.device | str | None = None
    ) -> Self:
        """Load by hub name ("BAAI/seggpt-vit-large"), folder or original `.pth` file; errors as in `load_seggpt`."""
        return cls(load_seggpt(str(source)), method, device, str(source))

    @property
    def calibration(self) -> str:
        """The weights' checksum, and how several examples are combined."""
        return f"{self.checksum}-{self.method.ensemble}"

    def encode(self, images: Sequence[Picture | EncodedPhoto]) -> list[EncodedPhoto]:
        """Stretch photos to the model's square, bicubically; already encoded photos are returned unchanged."""
        return [image if isinstance(image, EncodedPhoto) else self._place(rgb_array(image)) for image in images]

    def _place(self, pixels: NDArray[np.uint8]) -> EncodedPhoto:
        square = Image.fromarray(pixels).resize((self.side, self.side), Image.Resampling.BICUBIC)
        levels = torch.from_numpy(np.array(square)).permute(2, 0, 1).float().to(self.device)
        return EncodedPhoto(levels, Frame(pixels.shape[0], pixels.shape[1], self.side, stretch=True))

    def learn(self, references: Sequence[tuple[Reference, EncodedPhoto]], mask_weights: Tensor | None) -> Subject:
        """Keep the references, at the model's size, as examples."""
        images = torch.stack([photo.embedding.byte() for _, photo in references])
        masks = torch.stack([self._square_mask(reference.foreground) for reference, _ in references])
        nothing = torch.zeros(0, device=self.device)
        examples = Examples(images, masks.to(self.device))
        return Subject(nothing, nothing.clone(), self.name, self.checksum, examples=examples)

    def _square_mask(self, mask: NDArray[np.bool_]) -> Tensor:
        """Resize an (H, W) bool mask to the square, nearest; if that erases it, keep every pixel that it touches."""
        size = (self.side, self.side)
        nearest = np.array(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
        if nearest.any():
            return torch.from_numpy(nearest > 0)
        return F.adaptive_max_pool2d(torch.from_numpy(mask)[None].float(), size)[0] > 0

    def confidence(self, photo: EncodedPhoto, subject: Subject) -> Tensor:
        """Return the painted brightness of an encoded photo, (H, W) float32 in (0, 1]."""
        return torch.from_numpy(self.segment_encoded(photo, subject).confidence_map).clamp(min=1e-3)

    @torch.no_grad()
    def segment_encoded(
        self, photo: EncodedPhoto, subject: Subject, exclude: NDArray[np.bool_] | None = None
    ) -> Segmentation:
        """Segment one photo; arguments as in the base class. Excluded pixels are shown in grey, and painted black."""
        levels, frame = photo.embedding, photo.frame
        if exclude is not None:
            hidden = frame.to_grid(torch.from_numpy(exclude).float(), self.side, 0.0, "area").to(self.device) > 0
            levels = torch.where(hidden, self._mean, levels)
        brightness = self._paint(levels, subject)
        if exclude is not None:
            brightness = brightness.masked_fill(hidden, 0.0)
        logits = brightness / HALF - 1
        mask = frame.to_original(logits[None])[0] > 0
        if exclude is not None:  # resizing may have spread the mask over the edge of the excluded pixels
            mask &= torch.from_numpy(~exclude).to(self.device)
        confidence = frame.to_original(brightness[None])[0] / (2 * HALF)
        box, marked = bounding_box(mask), mask.float()
        score = float(
            torch.minimum(confidence, marked).sum() / torch.maximum(confidence, marked).sum().clamp(min=1e-6)
        )
        kept = logits.cpu().numpy()
        return Segmentation(
            mask=mask.cpu().numpy(),
            score=score,
            points=np.zeros((0, 2), np.int64),
            point_labels=np.zeros(0, np.int64),
            box=None if box is None else box.cpu().numpy(),
            confidence_map=confidence.cpu().numpy(),
            attention_bias=None,
            passes=(DecoderPass(kept[None], np.array([score], np.float32), 0, kept, None),),
            warnings=() if box is not None else ("the mask is empty: the subject was not found in this photo",),
        )

    def _paint(self, levels: Tensor, subject: Subject) -> Tensor:
        """Return the mean of the painted colours, (S, S) float32 in [0, 255], for a photo's (3, S, S) RGB levels."""
        assert subject.examples is not None, "SegGPT's subjects have examples"
        images, masks = subject.examples.images.to(self.device), subject.examples.masks.to(self.device)
        if self.method.ensemble == "spatial" and len(images) > 1:
            images, masks = spatial_ensemble(images, masks)
        count = len(images)
        white = 255.0 * masks[:, None].expand(-1, 3, -1, -1)
        with feature_ensemble(self._model, count):
            output = self._model(
                pixel_values=self._normalized(levels).expand(count, -1, -1, -1),
                prompt_pixel_values=self._normalized(images.float()),
                prompt_masks=self._normalized(white),
            )
        # Below the first example, as in the authors' code; the others differ in the row where photo and example meet.
        painted: Tensor = output.pred_masks[0, :, self.side :]
        check_finite(painted, self.name)
        return (painted * self._std + self._mean).clamp(0, 255).mean(0)

    def _normalized(self, levels: Tensor) -> Tensor:
        return (levels - self._mean) / self._std
