"""PerSAM and PerSAM-F, in the paper's order: from one reference to the subject's mask in every photo."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.segmentation import location
from persam_dreambooth.segmentation.backbones import Backbone, BuiltSam, Prompts, load_backbone
from persam_dreambooth.segmentation.encoding import PhotoEncoder, check_finite
from persam_dreambooth.segmentation.features import FeatureEncoder
from persam_dreambooth.segmentation.frame import Frame, bounding_box
from persam_dreambooth.segmentation.guidance import Guidance
from persam_dreambooth.segmentation.mask_weights import fit_mask_weights
from persam_dreambooth.segmentation.method import Method
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.refinement import cascade, recorded
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import (
    DecoderPass,
    EncodedPhoto,
    Picture,
    Reference,
    Segmentation,
)


class PerSAM(OneShotSegmenter):
    """Personalize a SAM with one reference, then segment the subject in other photos (section 3.2 of the paper).

    Args:
        backbone: the SAM.
        method: fidelity and techniques.
        features: second encoder, for the confidence map only (equations 4 to 7); the decoder still gets SAM's.
        cache: folder that keeps encoded photos for later runs and other subjects; see `PhotoEncoder`.
    """

    backbone: Backbone

    def __init__(
        self,
        backbone: Backbone,
        method: Method | None = None,
        features: FeatureEncoder | None = None,
        cache: Path | str | None = None,
    ) -> None:
        self.backbone, self.features = backbone, features
        self.method = method or Method()
        self._encoder = PhotoEncoder(backbone, features, cache, self.method.edge_padding)
        self.name, self.checksum = backbone.name, self._encoder.checksum

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | BuiltSam,
        method: Method | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        features: FeatureEncoder | None = None,
        cache: Path | str | None = None,
        sam_size: int | None = None,
    ) -> Self:
        """Load PerSAM on a SAM given by name, path or model object; arguments and errors as in `load_backbone`."""
        return cls(load_backbone(source, device, dtype, sam_size), method, features, cache)

    def learn(self, references: Sequence[tuple[Reference, EncodedPhoto]], mask_weights: Tensor | None) -> Subject:
        """Pool the local features under the reference masks (equations 3 and 4); fit PerSAM-F's mask weights."""
        pooled = torch.cat([self.local_features(*pair) for pair in references])  # (n, C)
        compared = pooled
        if self.features is not None:
            compared = torch.cat([self.local_features(reference, photo.compared) for reference, photo in references])
        subject = Subject(
            target_feature=self.method.rules.target_feature(compared, self.method.is_released_f),
            target_embedding=pooled.mean(0),
            backbone=self.name,
            checksum=self.checksum,
            mask_weights=mask_weights,
        )
        if self.method.mask_weights and mask_weights is None:
            return replace(subject, mask_weights=self._fit(references, subject))
        return subject

    def local_features(self, reference: Reference, encoded: EncodedPhoto) -> Tensor:
        """Return {T_R^i} of equation 4: the (n, C) features of the cells under one reference mask."""
        embedding, frame, rules = encoded.embedding, encoded.frame, self.method.rules
        grid = embedding.shape[-1]
        inside = location.foreground_cells(rules.mask_levels(reference), frame, grid) > 0
        if not inside.any():
            inside = rules.cells_without_foreground(reference, frame, grid)
        return embedding[:, inside.to(embedding.device)].T

    def _fit(self, references: Sequence[tuple[Reference, EncodedPhoto]], subject: Subject) -> Tensor:
        """Fit the (3,) float32 mask weights of equation 11 from one decoder pass per reference photo.

        The pass has the prompts and the guidance that a photo's first pass will have.
        """
        logits, foreground = [], []
        for reference, photo in references:
            embedding, frame = photo.embedding, photo.frame
            similarity, confidence = self._confidence(photo, subject)
            points, labels = location.location_prior(confidence, negative=self.method.negative_prior)
            guidance = self._guidance(similarity, confidence, frame, subject)
            prompts = Prompts(frame.to_model(points), labels)
            decoded, _ = self.backbone.decode(embedding, prompts, True, guidance, photo.extra)
            logits.append(frame.to_original(decoded).flatten(1))
            foreground.append(torch.from_numpy(reference.foreground.ravel()).to(embedding.device))
        return fit_mask_weights(torch.cat(logits, dim=1), torch.cat(foreground))

    def encode(self, images: Sequence[Picture | EncodedPhoto]) -> list[EncodedPhoto]:
        """Encode photos in one forward pass (equation 3); already encoded photos are returned unchanged."""
        return self._encoder(images)

    @property
    def label(self) -> str:
        """The method's name: "PerSAM" or "PerSAM-F"."""
        return "PerSAM-F" if self.method.mask_weights else "PerSAM"

    @torch.no_grad()
    def segment_encoded(
        self, photo: EncodedPhoto, subject: Subject, exclude: NDArray[np.bool_] | None = None
    ) -> Segmentation:
        """Segment one encoded photo: equations 5 to 11 and the cascade.

        Args:
            photo: from `encode`.
            subject: from `personalize`; not checked again.
            exclude: (H, W) bool, pixels not to search: the confidence map is set to its minimum there. None
                searches the whole photo.
        """
        frame = photo.frame
        similarity, confidence = self._confidence(photo, subject, exclude)
        points, labels = location.location_prior(confidence, negative=self.method.negative_prior)
        guidance = self._guidance(similarity, confidence, frame, subject)
        passes, warnings = self._cascade(
            photo, Prompts(frame.to_model(points), labels), guidance, subject.mask_weights
        )
        last = passes[-1]
        kept = torch.as_tensor(last.kept, device=photo.embedding.device)
        check_finite(kept, self.backbone.name)
        mask = frame.to_original(kept[None])[0] > 0
        box = bounding_box(mask)
        if box is None:
            warnings.append("the mask is empty: the subject was not found in this photo")
        bias = guidance.attention_bias
        return Segmentation(
            mask=mask.cpu().numpy(),
            score=float(last.predicted_iou[last.index]),
            points=points.cpu().numpy(),
            point_labels=labels.cpu().numpy(),
            box=None if box is None else box.cpu().numpy(),
            confidence_map=confidence.cpu().numpy(),
            attention_bias=None if bias is None else bias.view(similarity.shape).cpu().numpy(),
            passes=tuple(passes),
            warnings=tuple(warnings),
        )

    def _confidence(
        self, photo: EncodedPhoto, subject: Subject, exclude: NDArray[np.bool_] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Equations 5 and 6: the confidence map, (h, w) on the embedding's grid and (H, W) over the photo."""
        compared = photo.compared
        similarity = location.confidence_map(subject.target_feature, compared.embedding)
        confidence = location.to_photo(similarity, compared.frame)
        if exclude is not None:
            confidence = confidence.masked_fill(torch.from_numpy(exclude).to(confidence.device), confidence.min())
        if compared is not photo or exclude is not None:  # equation 8 needs it on the backbone's grid
            similarity = location.to_grid(confidence, photo.frame, photo.embedding.shape[-1])
        return similarity, confidence

    def _guidance(self, similarity: Tensor, confidence: Tensor, frame: Frame, subject: Subject) -> Guidance:
        """Equations 8 to 10: the guidance of the first decoder pass."""
        method, bias = self.method, None
        if method.guided_attention:
            bias = method.rules.attention_bias(similarity, confidence, frame, method.alpha).flatten()
        target = subject.target_embedding if method.semantic_prompting else None
        return Guidance(bias, target, method.rules.repeat_embedding)

    def _cascade(
        self, photo: EncodedPhoto, initial: Prompts, guidance: Guidance, weights: Tensor | None
    ) -> tuple[list[DecoderPass], list[str]]:
        """Decode with guidance (equation 11 with `weights`), then refine in two further passes.

        Both are prompted with the points and the previous logits; the second one (in the released PerSAM-F both) also
        with the tight box around the previous mask. Of the three masks, the one with the best predicted IoU is kept.

        Returns:
            The passes, and warnings.
        """
        decoded = self.backbone.decode(photo.embedding, initial, weights is not None, guidance, photo.extra)
        with_boxes = (self.method.is_released_f, True) if self.method.refinement else ()
        passes = cascade(self.backbone, photo, initial, recorded(*decoded, None, weights), with_boxes)
        skipped = len(passes) <= len(with_boxes)
        return passes, ["the box pass was skipped: the previous mask is empty"] if skipped else []
