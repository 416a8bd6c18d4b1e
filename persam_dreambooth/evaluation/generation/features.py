"""Image features of picture regions, cached on disk so that an interrupted run does not compute them again."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from persam_dreambooth.evaluation.generation.regions import Region, region_of
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import ImageEncoder
from persam_dreambooth.torch_utils import TensorCache


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
