"""PerSAM, training-free: one reference in, the subject's mask in every photo out, in the paper's order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor
from transformers import SamModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import location
from persam_dreambooth.segmentation.backbones import Backbone, Prompts, load_backbone
from persam_dreambooth.segmentation.geometry import Frame, bounding_box
from persam_dreambooth.segmentation.guidance import Guidance
from persam_dreambooth.segmentation.types import (
    DecoderPass,
    Picture,
    Reference,
    Segmentation,
    Subject,
    rgb_array,
)


@dataclass(frozen=True)
class Method:
    """Which PerSAM: whose reading of it, and which of its techniques.

    Attributes:
        fidelity: "official" does what the authors' code does, number for number; "corrected" is
            the same on square photos with PerSeg's masks, and right on the others; "paper" follows
            the equations as printed.
        negative_prior: the negative point of equation 7.
        refinement: the two further decoder passes of cascaded post-refinement.
        guided_attention: target-guided attention, equation 8.
        semantic_prompting: target-semantic prompting, equations 9 and 10.
        alpha: equation 8's factor; read by fidelity "paper" only.
    """

    fidelity: location.Fidelity = "corrected"
    negative_prior: bool = True
    refinement: bool = True
    guided_attention: bool = True
    semantic_prompting: bool = True
    alpha: float = 1.0

    def __post_init__(self) -> None:
        allowed = ("official", "corrected", "paper")
        if self.fidelity not in allowed:
            raise UserError(f"fidelity {self.fidelity!r} is unknown; choose one of {', '.join(allowed)}")
        if self.alpha != 1 and self.fidelity != "paper":
            raise UserError(f"alpha is read by fidelity 'paper' only, not by {self.fidelity!r}; leave it at 1")


class PerSAM:
    """Personalize a SAM with one reference; segment the subject in other photos (section 3.2 of the paper).

    Args:
        backbone: the SAM.
        method: fidelity and techniques.
    """

    def __init__(self, backbone: Backbone, method: Method | None = None) -> None:
        self.backbone = backbone
        self.method = method or Method()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | Sam | SamModel,
        method: Method | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """A PerSAM on a named, stored or already built SAM; arguments and errors as `load_backbone`."""
        return cls(load_backbone(source, device, dtype), method)

    def personalize(self, reference: Reference) -> Subject:
        """Equations 3 and 4: keep the reference's local features under its mask.

        Raises:
            UserError: with fidelity "official", no cell passes its rule (96.6 % coverage at value 128).
        """
        embedding, frame = self._encode([reference.pixels])[0]
        official = self.method.fidelity == "official"
        levels = reference.raw_levels() if official else reference.perseg_levels()
        inside = location.foreground_cells(levels, frame, embedding.shape[-1]).to(embedding.device)
        chosen = inside > 0
        if not chosen.any():
            if official:
                raise UserError(
                    "no cell of the embedding lies inside the reference mask by the official rule; "
                    "use fidelity 'corrected', or a mask whose red channel is above 123"
                )
            chosen = location.best_covered_cells(reference.foreground, frame, embedding.shape[-1])
            chosen = chosen.to(embedding.device)
        features = embedding[:, chosen].T  # (n, C)
        return Subject(
            target_feature=location.target_feature(features, self.method.fidelity),
            target_embedding=features.mean(0),
            backbone=self.backbone.name,
        )

    @overload
    def segment(self, images: Picture, subject: Subject, batch_size: int = ...) -> Segmentation: ...
    @overload
    def segment(self, images: Sequence[Picture], subject: Subject, batch_size: int = ...) -> list[Segmentation]: ...
    def segment(
        self, images: Picture | Sequence[Picture], subject: Subject, batch_size: int = 4
    ) -> Segmentation | list[Segmentation]:
        """Find the subject.

        Args:
            images: one photo, or several of any sizes.
            subject: from `personalize` on the same backbone.
            batch_size: how many photos the encoder sees at once.

        Returns:
            One `Segmentation` for one photo, a list of them in order for several.

        Raises:
            UserError: the subject is another backbone's, or the batch size is not positive.
        """
        if subject.backbone != self.backbone.name:
            raise UserError(
                f"this subject was made with {subject.backbone}, not with {self.backbone.name}; "
                "load that backbone or personalize again"
            )
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size} must be at least 1")
        if isinstance(images, Image.Image | np.ndarray):
            return self.segment([images], subject)[0]
        found: list[Segmentation] = []
        for start in range(0, len(images), batch_size):
            arrays = [rgb_array(image) for image in images[start : start + batch_size]]
            found += [self._segment_one(embedding, frame, subject) for embedding, frame in self._encode(arrays)]
        return found

    @torch.no_grad()
    def _segment_one(self, embedding: Tensor, frame: Frame, subject: Subject) -> Segmentation:
        """Equations 5 to 10 and the cascade, on one encoded photo."""
        method = self.method
        similarity = location.confidence_map(subject.target_feature, embedding)
        confidence = location.to_photo(similarity, frame)
        points, labels = location.location_prior(confidence, negative=method.negative_prior)
        bias = None
        if method.guided_attention:
            bias = location.attention_bias(similarity, confidence, frame, method.fidelity, method.alpha)
        guidance = Guidance(
            attention_bias=None if bias is None else bias.flatten(),
            target_embedding=subject.target_embedding if method.semantic_prompting else None,
            repeat_embedding=method.fidelity != "paper",
        )
        asked = Prompts(frame.to_model(points), labels)
        logits, predicted_iou = self.backbone.decode(embedding, asked, multimask=False, guidance=guidance)
        passes, warnings = [_record(logits, predicted_iou, None)], []
        if method.refinement:
            warnings = self._refine(embedding, frame, asked, passes)
        last = passes[-1]
        kept = torch.as_tensor(last.logits[last.index], device=embedding.device)
        mask = frame.to_original(kept[None])[0] > 0
        box = bounding_box(mask)
        if box is None:
            warnings.append("the mask is empty: nothing in this photo was taken for the subject")
        return Segmentation(
            mask=mask.cpu().numpy(),
            score=float(last.predicted_iou[last.index]),
            points=points.cpu().numpy(),
            point_labels=labels.cpu().numpy(),
            box=None if box is None else box.cpu().numpy(),
            confidence_map=confidence.cpu().numpy(),
            attention_bias=None if bias is None else bias.cpu().numpy(),
            passes=tuple(passes),
            warnings=tuple(warnings),
        )

    def _refine(self, embedding: Tensor, frame: Frame, asked: Prompts, passes: list[DecoderPass]) -> list[str]:
        """Cascaded post-refinement: two further passes, appended to `passes`; returns warnings.

        The first is prompted with points and the previous logits, the second also with the
        tight box around the first one's mask. Of three masks the one with the best predicted
        IoU goes on.
        """
        for with_box in (False, True):
            previous = torch.as_tensor(passes[-1].logits[passes[-1].index], device=embedding.device)
            box = bounding_box(frame.to_original(previous[None])[0] > 0) if with_box else None
            if with_box and box is None:
                return ["the box pass was skipped: the mask before it is empty"]
            model_box = None if box is None else frame.to_model(box.view(2, 2)).flatten()
            prompts = Prompts(asked.points, asked.labels, model_box, previous)
            logits, predicted_iou = self.backbone.decode(embedding, prompts, multimask=True)
            passes.append(_record(logits, predicted_iou, box))
        return []

    def _encode(self, arrays: Sequence[NDArray[np.uint8]]) -> list[tuple[Tensor, Frame]]:
        """(H, W, 3) uint8 photos to their (C, h, w) embeddings and frames, one encoder call."""
        frames = [Frame(array.shape[0], array.shape[1], self.backbone.image_size) for array in arrays]
        pixels = torch.stack([frame.pixels(array) for frame, array in zip(frames, arrays, strict=True)])
        return list(zip(self.backbone.encode(pixels), frames, strict=True))


def _record(logits: Tensor, predicted_iou: Tensor, box: Tensor | None) -> DecoderPass:
    """Keep a decoder pass on the CPU, its best mask by predicted IoU chosen."""
    return DecoderPass(
        logits=logits.float().cpu().numpy(),
        predicted_iou=predicted_iou.float().cpu().numpy(),
        index=int(predicted_iou.argmax()),
        box=None if box is None else box.cpu().numpy(),
    )
