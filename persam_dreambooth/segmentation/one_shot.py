"""The base class of all one-shot methods: learn a subject from references, then segment it in other photos."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import location
from persam_dreambooth.segmentation.backbones import Backbone
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import EncodedPhoto, Picture, Reference, Segmentation


class OneShotSegmenter(ABC):
    """Base class of PerSAM, INSID3, INSID3 with SAM and SegGPT; nothing above them depends on which one it is.

    Attributes:
        name: of the model whose features the subject is made of.
        checksum: of that model's weights; a subject is only valid for the weights that made it.
        backbone: its SAM; None for INSID3 alone and for SegGPT.
        box_is_mask: a reference's box, filled, can stand for its mask; for SegGPT, as in table 6 of PerSAM's paper.
    """

    name: str
    checksum: str
    backbone: Backbone | None = None
    box_is_mask: bool = False

    @property
    @abstractmethod
    def label(self) -> str:
        """The method's name, as in `Subject.made_by`."""

    @abstractmethod
    def learn(self, references: Sequence[tuple[Reference, EncodedPhoto]], mask_weights: Tensor | None) -> Subject:
        """Learn a subject from at least one reference with its encoded photo; arguments as in `personalize`."""

    @abstractmethod
    def encode(self, images: Sequence[Picture | EncodedPhoto]) -> list[EncodedPhoto]:
        """Encode photos in one forward pass; already encoded photos are returned unchanged."""

    @abstractmethod
    def segment_encoded(
        self, photo: EncodedPhoto, subject: Subject, exclude: NDArray[np.bool_] | None = None
    ) -> Segmentation:
        """Segment one encoded photo.

        Args:
            photo: from `encode`.
            subject: from `personalize`; not checked again.
            exclude: (H, W) bool, pixels not to search; None searches the whole photo.
        """

    @property
    def calibration(self) -> str:
        """Identifier of the method and its models: a presence rule is only valid for the one it was calibrated on."""
        return self.checksum

    def confidence(self, photo: EncodedPhoto, subject: Subject) -> Tensor:
        """Return the confidence map of an encoded photo, (H, W), as in the method's `Segmentation`."""
        return location.on_photo(subject.target_feature, photo)

    def encode_references(self, references: Sequence[Reference]) -> list[EncodedPhoto]:
        """Encode the references' photos one at a time, since there may be many."""
        return [self.encode([reference.pixels])[0] for reference in references]

    def encode_to_learn(self, references: Sequence[Reference]) -> list[EncodedPhoto]:
        """Encode the references' photos as far as `learn` needs it."""
        return self.encode_references(references)

    @torch.no_grad()
    def personalize(
        self,
        references: Reference | Sequence[Reference],
        mask_weights: Tensor | None = None,
        encoded: Sequence[EncodedPhoto] | None = None,
    ) -> Subject:
        """Learn a subject.

        Args:
            references: one reference, or several of the same subject.
            mask_weights: (3,) float32, known weights for PerSAM-F, which otherwise fits them; the others ignore it.
            encoded: the references' photos from `encode`, if already available.

        Raises:
            UserError: no reference; or, for PerSAM with fidelity "official", no cell passes its rule (96.6 %
                coverage at value 128).
        """
        references = [references] if isinstance(references, Reference) else list(references)
        if not references:
            raise UserError("personalize got no reference; give at least one photo with its mask")
        if encoded is None:
            encoded = self.encode_to_learn(references)
        if mask_weights is not None:
            mask_weights = mask_weights.to(encoded[0].embedding.device)
        return self.learn(list(zip(references, encoded, strict=True)), mask_weights)

    @overload  # a path is also a sequence of strings; it counts as one photo
    def segment(  # type: ignore[overload-overlap]
        self, images: Picture | EncodedPhoto, subject: Subject, batch_size: int = ...
    ) -> Segmentation: ...
    @overload
    def segment(
        self, images: Sequence[Picture | EncodedPhoto], subject: Subject, batch_size: int = ...
    ) -> list[Segmentation]: ...
    def segment(
        self,
        images: Picture | EncodedPhoto | Sequence[Picture | EncodedPhoto],
        subject: Subject,
        batch_size: int = 4,
    ) -> Segmentation | list[Segmentation]:
        """Segment the subject in photos.

        Args:
            images: one photo, or several of any sizes; already encoded photos from `encode` are accepted too.
            subject: from `personalize` of the same method on the same model, on any device.
            batch_size: number of photos encoded at once.

        Returns:
            One `Segmentation` for one photo, or a list in the order of the photos for several.

        Raises:
            UserError: the subject was made by another model or method, or the batch size is not positive.
        """
        self.check(subject)
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size} must be at least 1")
        if isinstance(images, Image.Image | np.ndarray | str | Path | EncodedPhoto):
            return self.segment([images], subject)[0]
        found: list[Segmentation] = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            found += [self.segment_encoded(photo, subject.to(photo.embedding.device)) for photo in self.encode(batch)]
        return found

    def check(self, subject: Subject) -> None:
        """Raise a UserError if the subject was made by another model or method."""
        if subject.checksum != self.checksum:
            raise UserError(
                f"this subject was made with {subject.backbone} (weights {subject.checksum}), not with "
                f"{self.name} ({self.checksum}); load that model with the same --features and --features_size, or "
                "personalize again"
            )
        if subject.made_by != self.label:
            raise UserError(
                f"this subject was made by {subject.made_by}, not by {self.label}; "
                "use that method or personalize again"
            )
