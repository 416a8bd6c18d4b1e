"""CLIP or DINO features of picture regions, cached on disk, so that an interrupted run does not compute them again."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import AutoTokenizer, CLIPModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_source import check_tokenizer
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import ImageEncoder
from persam_dreambooth.segmentation.appearance import cut_out
from persam_dreambooth.torch_utils import TensorCache


class Clip(ImageEncoder):
    """A CLIP with both encoders: `encode` for pictures, `encode_texts` for texts.

    Args:
        model: the CLIP.
        processor: its image processor.
        tokenizer: its tokenizer.
        device: None uses an accelerator if there is one.
    """

    def __init__(
        self, model: CLIPModel, processor: Any, tokenizer: Any, device: torch.device | str | None = None
    ) -> None:
        super().__init__(model, processor, device)
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, source: str | Path, device: torch.device | str | None = None) -> Self:
        """Load by hub name ("openai/clip-vit-base-patch32") or from a folder.

        Raises:
            UserError: nothing found, not a CLIP, or no tokenizer.
        """
        try:
            encoder = ImageEncoder.from_pretrained(source, device)
        except UserError as error:
            raise UserError(f"--clip_model {source}: {error}") from error.__cause__ or error
        if not isinstance(encoder.model, CLIPModel):
            raise UserError(f"--clip_model {source} is not a CLIP; give one, such as openai/clip-vit-base-patch32")
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            check_tokenizer(tokenizer)
        except Exception as error:  # no file, no JSON, an unknown class: each has its own exception
            raise UserError(f"--clip_model {source} has no tokenizer that can be read; download it again") from error
        return cls(encoder.model, encoder.processor, tokenizer, device)

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed n texts as (n, C) float32 of unit length; texts longer than CLIP's context are truncated."""
        length = self.model.config.text_config.max_position_embeddings
        settings = {"padding": True, "truncation": True, "max_length": length, "return_tensors": "pt"}
        tokens = self._tokenizer(texts, **settings).to(self.device)
        return torch.nn.functional.normalize(self.model.get_text_features(**tokens).pooler_output.float(), dim=-1)


Region = Literal["whole", "inside", "outside"]
REGIONS: Final[tuple[Region, ...]] = ("whole", "inside", "outside")


def region_of(picture: Image.Image, mask: NDArray[np.bool_], region: Region) -> Image.Image | None:
    """Extract a region of a picture.

    Args:
        picture: RGB.
        mask: (H, W) bool of the picture's size, True where the subject is.
        region: "whole"; "inside" for the subject cut out on grey, independent of all background pixels; "outside" for
            the picture with the subject filled with the background's mean colour, independent of all subject pixels.

    Returns:
        RGB; None if the region is empty: inside an empty mask, outside a full one.
    """
    if region == "whole":
        return picture
    pixels = np.asarray(picture)
    if region == "inside":
        return cut_out(pixels, mask) if mask.any() else None
    if mask.all():
        return None
    filling = pixels[~mask].mean(0).round().astype(np.uint8)
    return Image.fromarray(np.where(mask[..., None], filling, pixels))


@dataclass(frozen=True)
class Masked:
    """The file of a picture and that of its mask."""

    picture: Path
    mask: Path


class CachedFeatures:
    """An image encoder with a feature cache.

    Pictures are encoded one by one, so a feature is bit-identical no matter which other pictures are encoded.

    Args:
        encoder: CLIP or DINO.
        cache: stores features, keyed by the encoder's weights and settings and by the files' content.
    """

    def __init__(self, encoder: ImageEncoder, cache: TensorCache) -> None:
        self._encoder, self._cache = encoder, cache
        self._identity = f"{encoder.checksum} {encoder.processor.to_json_string()}"

    def __call__(self, pictures: Sequence[Masked], region: Region, what: str) -> list[Tensor | None]:
        """Return each picture's (C,) float32 unit-length feature on the CPU; None if the region is empty.

        Args:
            pictures: files.
            region: the region to encode.
            what: title of the progress bar.
        """
        bar = tqdm(pictures, what, unit="picture", delay=2, leave=False)
        return [self._encode(picture, region) for picture in bar]

    def _encode(self, masked: Masked, region: Region) -> Tensor | None:
        mask_digest = "" if region == "whole" else files.digest(masked.mask)
        words = f"{self._identity} {region} {files.digest(masked.picture)} {mask_digest}"
        key = hashlib.sha256(words.encode()).hexdigest()
        cached = self._cache.get(key)
        if cached is None:
            mask = np.zeros((1, 1), dtype=bool) if region == "whole" else files.read_mask(masked.mask)
            part = region_of(files.read_photo(masked.picture), mask, region)
            # An empty tensor stands for an empty region.
            cached = {"feature": torch.empty(0) if part is None else self._encoder.encode([part])[0].cpu()}
            self._cache.put(key, cached)
        return cached["feature"] if len(cached["feature"]) else None
