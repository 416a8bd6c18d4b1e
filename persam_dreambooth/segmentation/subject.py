"""The subject: the result of personalization, in memory and as a small `.safetensors` file."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.torch_utils import save_beside

FORMAT: Final = "persam-dreambooth subject 1"


@dataclass(frozen=True, eq=False)
class Memory:
    """The cells of all references, which INSID3 matches a photo's cells with.

    Attributes:
        features: (n, C) float32, INSID3's debiased features, unit rows.
        labels: (n,) int16: k for a cell under the mask of the k-th reference (counted from 1), -k for one beside it.
    """

    features: Tensor
    labels: Tensor

    @property
    def references(self) -> int:
        """The number of references."""
        return int(self.labels.abs().max())


@dataclass(frozen=True, eq=False)
class Examples:
    """Photos with their masks, at the size of SegGPT's square: the examples in its prompt.

    Attributes:
        images: (K, 3, S, S) uint8 RGB.
        masks: (K, S, S) bool.
    """

    images: Tensor
    masks: Tensor


@dataclass(frozen=True, eq=False)
class Subject:
    """The object to segment in other photos.

    Attributes:
        target_feature: (C,) float32, the feature that the confidence map compares with (equations 4-6).
        target_embedding: (C,) float32, the mean local feature T_R that prompts the decoder (equation 9).
        backbone: name of the backbone that the features come from, for messages.
        checksum: of that backbone's weights; the features are meaningless with other weights.
        mask_weights: (3,) float32, PerSAM-F's weights of the decoder's three masks (equation 11); None for the others.
        memory: the references' cells; for INSID3 only, whose prototype is both features.
        examples: the references themselves; for SegGPT only, which has no features: both are empty, (0,).
    """

    target_feature: Tensor
    target_embedding: Tensor
    backbone: str
    checksum: str
    mask_weights: Tensor | None = None
    memory: Memory | None = None
    examples: Examples | None = None

    @property
    def made_by(self) -> str:
        """The method that made it, and can use it: "PerSAM", "PerSAM-F", "INSID3" or "SegGPT"."""
        if self.examples is not None:
            return "SegGPT"
        if self.memory is not None:
            return "INSID3"
        return "PerSAM" if self.mask_weights is None else "PerSAM-F"

    def __repr__(self) -> str:
        held = f"{len(self.target_feature)} channels"
        if self.examples is not None:
            held = f"{len(self.examples.images)} examples"
        return f"Subject({self.made_by}, {held} of {self.backbone}, weights {self.checksum})"

    def with_examples(self, examples: Examples) -> Self:
        """Return the same subject with other examples, for SegGPT."""
        return replace(self, examples=examples)

    def to(self, device: torch.device | str) -> Self:
        """Return the same subject with all of its tensors on a device."""
        memory, examples, weights = self.memory, self.examples, self.mask_weights
        return replace(
            self,
            target_feature=self.target_feature.to(device),
            target_embedding=self.target_embedding.to(device),
            mask_weights=None if weights is None else weights.to(device),
            memory=memory and Memory(memory.features.to(device), memory.labels.to(device)),
            examples=examples and Examples(examples.images.to(device), examples.masks.to(device)),
        )

    def save(self, path: Path | str) -> None:
        """Write a `.safetensors` file: tensors under their attribute names, strings in the metadata."""
        path = Path(path)
        tensors = {"target_feature": self.target_feature, "target_embedding": self.target_embedding}
        if self.mask_weights is not None:
            tensors["mask_weights"] = self.mask_weights
        if self.memory is not None:
            tensors |= {"memory_features": self.memory.features, "memory_labels": self.memory.labels}
        if self.examples is not None:
            tensors |= {"example_images": self.examples.images, "example_masks": self.examples.masks}
        metadata = {"format": FORMAT, "backbone": self.backbone, "checksum": self.checksum}
        save_beside(tensors, path, metadata)

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> Self:
        """Read a subject written by `save`.

        Raises:
            UserError: no such file, not a safetensors file, or not a subject.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no subject at {path}; give a .safetensors file that `Subject.save` wrote")
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise UserError(f"{path} is damaged or no safetensors file ({error}); save the subject again") from error
        always, memory = {"target_feature", "target_embedding"}, {"memory_features", "memory_labels"}
        shown, named = {"example_images", "example_masks"}, set(tensors)
        kinds = (always, always | {"mask_weights"}, always | memory, always | shown)
        if metadata.get("format") != FORMAT or named not in kinds:
            raise UserError(
                f"{path} is not a subject: its format is {metadata.get('format')!r}, expected {FORMAT!r}; give a file "
                "that `Subject.save` wrote"
            )
        cells = Memory(tensors.pop("memory_features"), tensors.pop("memory_labels")) if memory <= named else None
        examples = Examples(tensors.pop("example_images"), tensors.pop("example_masks")) if shown <= named else None
        known = {name: metadata[name] for name in ("backbone", "checksum")}
        return cls(**tensors, **known, memory=cells, examples=examples)
