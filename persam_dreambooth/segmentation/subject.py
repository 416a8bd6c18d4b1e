"""The subject: what one personalization found, in memory and as a small `.safetensors` file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.torch_utils import save_beside

FORMAT: Final = "persam-dreambooth subject 1"


@dataclass(frozen=True, eq=False)
class Subject:
    """The thing to be looked for in other photos.

    Attributes:
        target_feature: (C,) float32, what the confidence map compares with (equations 4-6).
        target_embedding: (C,) float32, the mean local feature T_R that prompts the decoder (equation 9).
        backbone: name of the backbone whose features these are, for people.
        checksum: of that backbone's weights; with other weights the features mean nothing.
        mask_weights: (3,) float32, PerSAM-F's weights of the decoder's three masks (equation 11); None with PerSAM.
    """

    target_feature: Tensor
    target_embedding: Tensor
    backbone: str
    checksum: str
    mask_weights: Tensor | None = None

    def __repr__(self) -> str:
        made_by = "PerSAM" if self.mask_weights is None else "PerSAM-F"
        return f"Subject({made_by}, {len(self.target_feature)} channels of {self.backbone}, weights {self.checksum})"

    def save(self, path: Path | str) -> None:
        """Write a `.safetensors` file: the tensors by their names here, the words in its metadata."""
        path = Path(path)
        tensors = {"target_feature": self.target_feature, "target_embedding": self.target_embedding}
        if self.mask_weights is not None:
            tensors["mask_weights"] = self.mask_weights
        words = {"format": FORMAT, "backbone": self.backbone, "checksum": self.checksum}
        save_beside(tensors, path, words)

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: no file, not a safetensors file, or not a subject.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no subject at {path}; give a .safetensors file that `Subject.save` wrote")
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                words = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise UserError(f"{path} is damaged or no safetensors file ({error}); save the subject again") from error
        known = {"target_feature", "target_embedding", "mask_weights"}
        if words.get("format") != FORMAT or not known - {"mask_weights"} <= set(tensors) <= known:
            raise UserError(f"{path} is no subject: its format is {words.get('format')!r}, a subject's {FORMAT!r}")
        return cls(**tensors, backbone=words["backbone"], checksum=words["checksum"])
