"""Features of pictures' regions, each computed once: what a killed run has seen is not looked at again."""

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
    """A picture's file and its mask's."""

    picture: Path
    mask: Path


class CachedFeatures:
    """An encoder that remembers what it saw.

    Pictures are encoded one by one, so that a feature is the same, to the bit, whatever else was left to encode.

    Args:
        encoder: CLIP or DINO.
        cache: where features are kept; by the encoder's weights and settings and by the files' content.
    """

    def __init__(self, encoder: ImageEncoder, cache: TensorCache) -> None:
        self._encoder, self._cache = encoder, cache
        self._who = f"{encoder.checksum} {encoder.processor.to_json_string()}"

    def __call__(self, pictures: Sequence[Masked], region: Region, what: str) -> list[Tensor | None]:
        """Each picture's (C,) float32 feature of length 1, on the CPU; None where nothing of the region is left.

        Args:
            pictures: files.
            region: what of them counts.
            what: for the progress bar.
        """
        return [self._see(one, region) for one in tqdm(pictures, what, unit="picture", delay=2, leave=False)]

    def _see(self, one: Masked, region: Region) -> Tensor | None:
        mask = "" if region == "whole" else files.digest(one.mask)
        key = hashlib.sha256(f"{self._who} {region} {files.digest(one.picture)} {mask}".encode()).hexdigest()
        kept = self._cache.get(key)
        if kept is None:
            drawn = np.zeros((1, 1), dtype=bool) if region == "whole" else files.read_mask(one.mask)
            part = region_of(files.read_photo(one.picture), drawn, region)
            # A tensor of no values stands for nothing to see.
            kept = {"feature": torch.empty(0) if part is None else self._encoder.encode([part])[0].cpu()}
            self._cache.put(key, kept)
        return kept["feature"] if len(kept["feature"]) else None
