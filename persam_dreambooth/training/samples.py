"""One crop of one photo, as training takes it: cut out anew each time, or encoded before the training and kept."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from tqdm import tqdm

from persam_dreambooth.photos import files
from persam_dreambooth.tensors import TensorCache
from persam_dreambooth.training.config import DataConfig
from persam_dreambooth.training.crops import Size, cut_mask, cut_photo, draw_crop
from persam_dreambooth.training.families import Family

Sample = dict[str, Tensor]
"""`pixels` (3, h, w) float32 in [-1, 1], or in their place `moments` (2 C, h', w') of their latents; `mask` (1, h, w)
float32 of 0 and 1, all 1 without a mask; and `crop`, see `Crop.conditioning`."""
Source = tuple[Path, Path | None, Size]
"""A photo, its mask, and the size of its crops."""
ReadSample = Callable[[Path, Path | None, Size], Sample]
VERSION: Final = 1
"""Part of every key; to be raised whenever the same words would mean other samples."""


def read_mask(path: Path) -> Tensor:
    """A mask file as (H, W) uint8 of 0 and 1.

    Raises:
        UserError: it cannot be read.
    """
    return torch.from_numpy(files.read_mask(path)).to(torch.uint8)


class FreshSamples:
    """Cut out of the photo each time, by the global random generator.

    Args:
        config: crops and flips.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def __call__(self, photo: Path, mask: Path | None, size: Size) -> Sample:
        """A photo's sample.

        Raises:
            UserError: the photo or the mask cannot be read.
        """
        picture = files.read_photo(photo)
        drawn = None if mask is None else read_mask(mask)
        crop = draw_crop((picture.height, picture.width), size, self._config, drawn)
        return {
            "pixels": cut_photo(picture, crop, self._config.image_interpolation_mode or "bilinear"),
            "mask": torch.ones(1, *size) if drawn is None else cut_mask(drawn, crop),
            "crop": crop.conditioning(),
        }


class EncodedSamples:
    """A few samples of each photo, encoded once; which of them is drawn by the global random generator.

    A sample's key is a hash of the photo's and the mask's bytes, the crop's settings, its number and
    the autoencoder's weights and precision: what was made of anything else is never found.

    Args:
        family: encodes what is not in the cache yet.
        config: crops and flips, how many of them, and the cache's folder.
        sources: all that will be asked for.
        speaks: whether to show a progress bar.
    """

    def __init__(self, family: Family, config: DataConfig, sources: Iterable[Source], speaks: bool = True) -> None:
        fixed = config.center_crop and not config.random_flip
        self._count = 1 if fixed else config.cached_crops
        self._cache = TensorCache(Path(config.training_cache) if config.training_cache else None)
        self._keys: dict[Source, list[str]] = {}
        model, read = family.checksum("vae"), FreshSamples(config)
        for source in tqdm(list(dict.fromkeys(sources)), "Encoding photos", unit="photo", delay=2, disable=not speaks):
            self._keys[source] = [_key(source, config, number, model) for number in range(self._count)]
            for key in self._keys[source]:
                if self._cache.get(key) is None:
                    self._cache.put(key, _encoded(read, source, key, family))

    def __call__(self, photo: Path, mask: Path | None, size: Size) -> Sample:
        """A photo's sample."""
        keys = self._keys[photo, mask, size]
        number = int(torch.randint(len(keys), (1,))) if len(keys) > 1 else 0
        sample = self._cache.get(keys[number])
        assert sample is not None, "every sample was encoded before the training"
        return sample | {"mask": sample["mask"].float()}


def _key(source: Source, config: DataConfig, number: int, model: str) -> str:
    photo, mask, size = source
    words = {
        "version": VERSION,
        "photo": files.digest(photo),
        "mask": None if mask is None else files.digest(mask),
        "size": size,
        "crop": [config.center_crop, config.random_flip, config.image_interpolation_mode, number],
        "model": model,
    }
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def _encoded(read: FreshSamples, source: Source, key: str, family: Family) -> Sample:
    """A sample whose crop follows from its key, so that it is the same one whenever it is made anew."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(key[:16], 16))
        sample = read(*source)
    moments = family.encode_pixels(sample.pop("pixels")[None])[0]
    return {"moments": moments, "mask": sample["mask"].to(torch.uint8), "crop": sample["crop"]}
