"""MaSC's concept preservation: how well the patches of a photo's subject are matched by patches of a picture.

Bartkowiak et al., "MaSC: A Masked Similarity Metric for Evaluating Concept-Driven Generation" (arXiv 2605.22469): the
mean, over the patches of a photo that its mask covers by more than half, of the highest cosine with any patch of the
picture. The patches are the last hidden states of SigLIP 2's image tower; no mask of the picture is needed. The
paper's other number, prompt following, is left out.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import Siglip2Model, SiglipModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.features import Masked
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation.pretrained import load_image_processor, load_pretrained
from persam_dreambooth.torch_utils import TensorCache, choose_device, weights_checksum

CLASSES: Final = {"siglip": SiglipModel, "siglip2": Siglip2Model}
PATCHES: Final = 1024
"""Maximum number of patches per picture, the paper's, for a model that takes any number (NaFlex)."""
COVERED: Final = 0.5
"""A patch belongs to the subject if the mask, resized to one value per patch, is above this."""


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of a picture.

    Attributes:
        features: (rows * columns, C) float32 of length 1, row by row.
        rows, columns: of the grid.
    """

    features: Tensor
    rows: int
    columns: int


def concept_preservation(photo: Patches, mask: NDArray[Any], picture: Patches) -> float | None:
    """Compare a photo's subject with a picture.

    Args:
        photo: its patches.
        mask: (H, W) bool, True where the photo's subject is.
        picture: its patches.

    Returns:
        In [-1, 1], 1 for the photo itself; None if the subject covers no patch by more than half.
    """
    covered = functional.interpolate(
        torch.from_numpy(mask)[None, None].float(), (photo.rows, photo.columns), mode="bilinear", align_corners=False
    )
    subject = photo.features[covered.flatten() > COVERED]
    return float((subject @ picture.features.T).max(1).values.mean()) if len(subject) else None


class Masc:
    """Measures pictures with a SigLIP 2.

    Args:
        model: a SigLIP or SigLIP 2, with or without a fixed size.
        processor: its image processor.
        device: None uses an accelerator if there is one.
        stored: keeps the values, keyed by the model's weights and the files' content.
    """

    def __init__(self, model: Any, processor: Any, device: str | None, stored: TensorCache) -> None:
        self._device, self._cache, self._processor = choose_device(device), stored, processor
        self._naflex = isinstance(model, Siglip2Model)
        self._checksum = weights_checksum(model.vision_model)
        self._tower = model.vision_model.eval().requires_grad_(False).to(self._device, torch.float32)
        self._photos: dict[Path, Patches] = {}

    @classmethod
    def from_pretrained(cls, source: str, device: str | None, stored: TensorCache) -> "Masc":
        """Load by hub name ("google/siglip2-so400m-patch16-naflex", the paper's) or from a folder.

        Raises:
            UserError: nothing found, another kind of model, or no preprocessor_config.json.
        """
        example = "google/siglip2-so400m-patch16-naflex"
        try:
            model, _ = load_pretrained(source, CLASSES, "SigLIP", example)
            processor = load_image_processor(source)
        except UserError as error:
            raise UserError(f"--masc_model {source}: {error}") from error.__cause__ or error
        return cls(model, processor, device, stored)

    def __call__(self, photos: Sequence[Masked], picture: Path) -> float | None:
        """Return a picture's mean concept preservation over all photos; None without a patch of the subject."""
        encoded = cache(lambda: self.patches(picture))  # once for all photos, and only if a value is not cached
        values = [value for photo in photos if (value := self._compare(photo, picture, encoded)) is not None]
        return sum(values) / len(values) if values else None

    def _compare(self, photo: Masked, picture: Path, encoded: Callable[[], Patches]) -> float | None:
        words = f"masc {self._checksum} {PATCHES} {files.digest(photo.picture)} {files.digest(photo.mask)}"
        key = hashlib.sha256(f"{words} {files.digest(picture)}".encode()).hexdigest()
        cached = self._cache.get(key)
        if cached is None:
            if photo.picture not in self._photos:
                self._photos[photo.picture] = self.patches(photo.picture)
            mask = files.read_mask(photo.mask)
            value = concept_preservation(self._photos[photo.picture], mask, encoded())
            cached = {"masc": torch.tensor([] if value is None else [value])}  # an empty tensor stands for None
            self._cache.put(key, cached)
        return float(cached["masc"]) if len(cached["masc"]) else None

    @torch.no_grad()
    def patches(self, path: Path) -> Patches:
        """Encode the file of a picture."""
        settings: dict[str, Any] = {"max_num_patches": PATCHES} if self._naflex else {}
        inputs = self._processor(images=[files.read_photo(path)], return_tensors="pt", **settings).to(self._device)
        states = self._tower(**inputs).last_hidden_state[0].float()
        if self._naflex:  # padded to PATCHES
            rows, columns = (int(side) for side in inputs["spatial_shapes"][0])
            states = states[inputs["pixel_attention_mask"][0] > 0]
        else:
            patch = self._tower.config.patch_size
            rows, columns = (int(side) // patch for side in inputs["pixel_values"].shape[-2:])
        return Patches(functional.normalize(states, dim=-1).cpu(), rows, columns)
