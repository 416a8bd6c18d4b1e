"""Locate a phrase ("a red mug") in a photo with Grounding DINO, OWLv2, CLIPSeg or SAM 3 from transformers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from transformers import (
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoForObjectDetection,
    Owlv2ForObjectDetection,
    Owlv2Processor,
    Sam3Model,
    Sam3Processor,
)

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.encoding import check_finite
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.pretrained import load_pretrained, load_processor
from persam_dreambooth.segmentation.types import Picture, rgb_array
from persam_dreambooth.torch_utils import choose_device

DEFAULT_MODEL: Final = "IDEA-Research/grounding-dino-tiny"
MOST: Final = 20
"""Maximum number of matches kept in a photo, those with the highest scores."""


@dataclass(frozen=True)
class TextPrompt:
    """A phrase to locate, and the model that locates it.

    Attributes:
        phrase: a few words for one kind of thing, such as "a red mug"; full stops are left out, because they
            separate phrases for Grounding DINO.
        model: hub name or folder of a Grounding DINO, OWLv2, CLIPSeg or SAM 3.
        threshold: score, in [0, 1], that a match must exceed; None for the model's default.
        overlap: for a `PhraseCheck`: IoU, in [0, 1], that the box around a mask must reach with a match's box.

    Raises:
        UserError: the phrase has no word, or a number is not in [0, 1].
    """

    phrase: str
    model: str = DEFAULT_MODEL
    threshold: float | None = None
    overlap: float = 0.5

    def __post_init__(self) -> None:
        words = " ".join(self.phrase.replace(".", " ").split())
        if not words:
            raise UserError(f"the phrase {self.phrase!r} has no word; give a few words, such as 'a red mug'")
        for name, value in (("threshold", self.threshold), ("overlap", self.overlap)):
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"the {name} {value} of a phrase must lie between 0 and 1")
        object.__setattr__(self, "phrase", words)
        object.__setattr__(self, "model", str(self.model))


@dataclass(frozen=True, eq=False)
class TextMatch:
    """A place in a photo that a phrase describes.

    Attributes:
        score: the model's, in [0, 1]; not comparable between models.
        box: (4,) float64 XYXY inside the upright photo, in its pixels.
        mask: (H, W) bool, not empty; None from a model that finds boxes only.
    """

    score: float
    box: NDArray[np.float64]
    mask: NDArray[np.bool_] | None = None


Size = tuple[int, int]
"""(H, W) of the photo."""
Matches = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Scores (n,), boxes (n, 4) XYXY in the photo's pixels, and masks (n, H, W) or None."""


def _read_grounding_dino(processor: Any, output: Any, inputs: Any, size: Size, threshold: float) -> Matches:
    (found,) = processor.post_process_grounded_object_detection(
        output, inputs["input_ids"], threshold, target_sizes=[size]
    )
    return found["scores"], found["boxes"], None


def _read_owlv2(processor: Any, output: Any, inputs: Any, size: Size, threshold: float) -> Matches:
    (found,) = processor.post_process_grounded_object_detection(output, threshold, target_sizes=[size])
    return found["scores"], found["boxes"], None


def _read_sam3(processor: Any, output: Any, inputs: Any, size: Size, threshold: float) -> Matches:
    (found,) = processor.post_process_instance_segmentation(output, threshold, target_sizes=[size])
    return found["scores"], found["boxes"], found["masks"] > 0


def _read_clipseg(processor: Any, output: Any, inputs: Any, size: Size, threshold: float) -> Matches:
    """Each connected region above the threshold is a match; its score is its highest probability."""
    maps = torch.nn.functional.interpolate(output.logits[None], size, mode="bilinear", align_corners=False)
    probability = maps[0, 0].sigmoid().cpu().numpy()
    regions, count = ndimage.label(probability > threshold, np.ones((3, 3)))
    scores = torch.tensor(ndimage.maximum(probability, regions, range(1, count + 1)), dtype=torch.float32)
    kept = [1 + number for number in scores.argsort(descending=True).tolist()[:MOST]]
    masks = torch.from_numpy(np.stack([regions == number for number in kept]) if kept else np.zeros((0, *size), bool))
    return scores.sort(descending=True).values[:MOST], _boxes_around(masks), masks


def _boxes_around(masks: torch.Tensor) -> torch.Tensor:
    """Return the tight boxes of (n, H, W) masks that are not empty, (n, 4) XYXY of their outer edges."""
    boxes = [box for mask in masks if (box := bounding_box(mask)) is not None]
    outer = torch.tensor([0, 0, 1, 1])  # from the last pixels inside to the edges
    return torch.stack(boxes) + outer if boxes else torch.zeros(0, 4)


class _Kind(NamedTuple):
    """A model class.

    Attributes:
        model, processor: classes of transformers.
        threshold: default threshold: transformers' for its scores; one half for CLIPSeg's probabilities.
        read: turns the model's output into matches.
        draws_outlines: whether its masks are as fine as a SAM's.
    """

    model: type[Any]
    processor: type[Any]
    threshold: float
    read: Callable[[Any, Any, Any, Size, float], Matches]
    draws_outlines: bool = False


_SAM3 = _Kind(Sam3Model, Sam3Processor, 0.3, _read_sam3, draws_outlines=True)
_KINDS: Final = {
    "grounding-dino": _Kind(GroundingDinoForObjectDetection, GroundingDinoProcessor, 0.25, _read_grounding_dino),
    "mm-grounding-dino": _Kind(MMGroundingDinoForObjectDetection, GroundingDinoProcessor, 0.25, _read_grounding_dino),
    "owlv2": _Kind(Owlv2ForObjectDetection, Owlv2Processor, 0.1, _read_owlv2),
    "clipseg": _Kind(CLIPSegForImageSegmentation, CLIPSegProcessor, 0.5, _read_clipseg),
    "sam3": _SAM3,
    "sam3_video": _SAM3,  # the published checkpoint: its detector is loaded
}


class TextLocator:
    """A model that finds what a phrase describes.

    Args:
        model: of a class in `_KINDS`, of any size; it is frozen and moved to the device, in float32.
        processor: its transformers processor.
        kind: its model_type.
        device: None uses an accelerator if there is one.
    """

    def __init__(self, model: Any, processor: Any, kind: str, device: torch.device | str | None = None) -> None:
        self._kind, self._processor, self._device = _KINDS[kind], processor, choose_device(device)
        self._model = model.eval().requires_grad_(False).to(self._device, torch.float32)
        config = self._model.config
        self._longest = getattr(config, "max_text_len", None) or config.text_config.max_position_embeddings

    @classmethod
    def from_pretrained(cls, source: str | Path = DEFAULT_MODEL, device: torch.device | str | None = None) -> Self:
        """Load by hub name ("google/owlv2-base-patch16-ensemble", "facebook/sam3", ...) or from a folder.

        Raises:
            UserError: nothing found, another kind of model, or no tokenizer or image processor.
        """
        classes = {name: kind.model for name, kind in _KINDS.items()}
        model, kind = load_pretrained(
            str(source), classes, "model that locates phrases", f"{DEFAULT_MODEL} or facebook/sam3"
        )
        return cls(model, load_processor(str(source), _KINDS[kind].processor), kind, device)

    @property
    def draws_outlines(self) -> bool:
        """Whether the matches have masks as fine as a SAM's."""
        return self._kind.draws_outlines

    def threshold(self, prompt: TextPrompt) -> float:
        """Return the score that a match must exceed."""
        return self._kind.threshold if prompt.threshold is None else prompt.threshold

    @torch.no_grad()
    def locate(self, image: Picture, prompt: TextPrompt) -> list[TextMatch]:
        """Find what the phrase describes in one photo; `prompt.model` is not read.

        Returns:
            At most `MOST` matches with scores above the threshold, the highest first. Boxes are cut at the photo's
            edges; what lies outside, or has an empty mask, is left out.

        Raises:
            UserError: the phrase is too long for the model, or the model returns NaN.
        """
        pixels = rgb_array(image)
        height, width = pixels.shape[:2]
        photo = Image.fromarray(pixels)  # in an array of three rows, the rows would be taken for colours
        inputs = self._processor(images=photo, text=[prompt.phrase.lower()], return_tensors="pt").to(self._device)
        if inputs["input_ids"].shape[-1] > self._longest:
            raise UserError(
                f"the phrase {prompt.phrase!r} has {inputs['input_ids'].shape[-1]} tokens, the model reads "
                f"{self._longest}; use fewer words"
            )
        inputs.pop("original_sizes", None)
        output = self._model(**inputs)
        scores, boxes, masks = self._kind.read(
            self._processor, output, inputs, (height, width), self.threshold(prompt)
        )
        check_finite(scores, "the model of --text_model")
        edges = torch.tensor([width, height, width, height], dtype=torch.float64)
        boxes = boxes.cpu().double().clamp(min=torch.zeros(4, dtype=torch.float64), max=edges)
        matches = []
        for index in scores.argsort(descending=True, stable=True)[:MOST].tolist():
            box, mask = boxes[index], None if masks is None else masks[index].cpu().numpy()
            if (box[2:] > box[:2]).all() and (mask is None or mask.any()):
                matches.append(TextMatch(float(scores[index]), box.numpy(), mask))
        return matches
