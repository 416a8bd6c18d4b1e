"""Samples (a sample is one crop of one photo): cut out again each time, or encoded before training and cached."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.torch_utils import TensorCache
from persam_dreambooth.training.config import DataConfig
from persam_dreambooth.training.data.crops import Size, cover_mask, cut_mask, cut_photo, draw_crop
from persam_dreambooth.training.families import Family

Sample = dict[str, Tensor]
"""`pixels` (3, h, w) float32 in [-1, 1], or instead `moments` (2 C, h', w') of their latents; `mask` (1, h, w) float32
in [0, 1], the maximum of the photo's masks, all 1 without one; `crop`, see `Crop.conditioning`; with several masks
`regions`, (R, h, w) float32 in [0, 1], each of them; and with an exclusion mask `exclude`, (1, h, w) float32 of 0 and
1."""
Source = tuple[Path, tuple[Path, ...], Size, Path | None]
"""A photo, its masks, the size of its crops, and its exclusion mask."""
ReadSample = Callable[[Path, tuple[Path, ...], Size, Path | None], Sample]
MASKS: Final = ("mask", "regions", "exclude")
"""Keys of a sample's masks, which a cache keeps as bytes."""
VERSION: Final = 3
"""Part of every cache key; to be increased when a change of the code makes the same settings give other samples."""


def read_mask(path: Path) -> Tensor:
    """Read a mask file as weights, (H, W) uint8 from 0 to 255.

    Raises:
        UserError: it cannot be read.
    """
    return torch.from_numpy(files.read_levels(path, known=True))


def read_exclusion(path: Path, known: bool = True) -> Tensor:
    """Read an exclusion mask file, (H, W) uint8 of 0 and 255.

    Args:
        path: the file.
        known: the file was checked before, so that it need not be checked again.

    Raises:
        UserError: it cannot be read, or is a photo instead of a mask.
    """
    return torch.from_numpy(files.read_mask(path, known)).to(torch.uint8) * 255


def _find_backgrounds(config: DataConfig) -> list[Path]:
    """List the pictures of `--background_images`; none without the flag.

    Raises:
        UserError: no such folder, or no picture in it.
    """
    if not config.background_images:
        return []
    folder = Path(config.background_images)
    found = files.list_photos(folder) if folder.is_dir() else []
    if not found:
        raise UserError(f"--background_images {folder} is not a folder with pictures; give one, or drop the flag")
    return found


class FreshSamples:
    """Samples that are cut out of the photo again each time, drawn with the global random generator.

    Args:
        config: crops and flips, and the folder of background pictures, which is listed once.

    Attributes:
        config: the same.
        backgrounds: pictures that are put behind the subject.

    Raises:
        UserError: no background pictures in the folder.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config, self._interpolation = config, config.image_interpolation_mode or "bilinear"
        self.backgrounds = _find_backgrounds(config)

    def __call__(self, photo: Path, masks: tuple[Path, ...], size: Size, exclude: Path | None = None) -> Sample:
        """Return a sample of a photo.

        Raises:
            UserError: the photo or a mask cannot be read.
        """
        picture = files.read_photo(photo)
        regions = [cover_mask(read_mask(mask), size) for mask in masks]
        drawn = torch.stack(regions).amax(0) if regions else None
        crop = draw_crop((picture.height, picture.width), size, self.config, drawn)
        pixels = cut_photo(picture, crop, self._interpolation)
        if drawn is None:
            return {"pixels": pixels, "mask": torch.ones(1, *size), "crop": crop.conditioning()}
        inside = cut_mask(drawn, crop)
        if self.backgrounds:
            pixels = torch.where(inside > 0, pixels, self._background(size))
        sample = {"pixels": pixels, "mask": inside, "crop": crop.conditioning()}
        if len(regions) > 1:
            sample["regions"] = torch.cat([cut_mask(region, crop) for region in regions])
        if exclude is not None:
            sample["exclude"] = cut_mask(cover_mask(read_exclusion(exclude), size), crop)
        return sample

    def _background(self, size: Size) -> Tensor:
        """Draw one of the background pictures and crop it; return (3, h, w)."""
        picture = files.read_photo(self.backgrounds[int(torch.randint(len(self.backgrounds), (1,)))])
        crop = draw_crop((picture.height, picture.width), size, self.config)
        return cut_photo(picture, crop, self._interpolation)


class EncodedSamples:
    """A few samples of each photo, encoded once; each call picks one with the global random generator.

    A sample's cache key is a hash of the photo's and masks' bytes, the crop settings, the sample's number and
    the autoencoder's weights and precision, so that a stale sample is never found.

    Args:
        family: encodes what is not in the cache yet.
        read: makes the samples to encode; its config also has the number of samples per photo and the cache folder.
        sources: every source that will be requested.
        show_progress: whether to show a progress bar.
    """

    def __init__(
        self, family: Family, read: FreshSamples, sources: Iterable[Source], show_progress: bool = True
    ) -> None:
        config = read.config
        fixed = config.center_crop and not config.random_flip and not read.backgrounds
        self._count = 1 if fixed else config.cached_crops
        self._cache = TensorCache(Path(config.training_cache) if config.training_cache else None)
        self._keys: dict[Source, list[str]] = {}
        behind, model = [files.digest(path) for path in read.backgrounds], family.checksum("vae")
        for source in tqdm(
            list(dict.fromkeys(sources)), "Encoding photos", unit="photo", delay=2, disable=not show_progress
        ):
            self._keys[source] = [_key(source, config, number, [model, *behind]) for number in range(self._count)]
            for key in self._keys[source]:
                if self._cache.get(key) is None:
                    self._cache.put(key, _encoded(read, source, key, family))

    def __call__(self, photo: Path, masks: tuple[Path, ...], size: Size, exclude: Path | None = None) -> Sample:
        """Return a sample of a photo."""
        keys = self._keys[photo, masks, size, exclude]
        number = int(torch.randint(len(keys), (1,))) if len(keys) > 1 else 0
        sample = self._cache.get(keys[number])
        if sample is None:
            raise UserError(f"{keys[number]} of the --training_cache is missing or damaged; run again to recreate it")
        levels = {name: sample[name].float() / 255 for name in MASKS if name in sample}
        return {"mask": torch.ones(1, *size)} | sample | levels


def _key(source: Source, config: DataConfig, number: int, others: list[str]) -> str:
    photo, masks, size, exclude = source
    digests = [files.digest(mask) for mask in masks]
    words = {
        "version": VERSION,
        "photo": files.digest(photo),
        "mask": digests if len(digests) > 1 else next(iter(digests), None),
        "exclude": None if exclude is None else files.digest(exclude),
        "size": size,
        "crop": [config.center_crop, config.random_flip, config.image_interpolation_mode, number],
        "model and backgrounds": others,
    }
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def _encoded(read: FreshSamples, source: Source, key: str, family: Family) -> Sample:
    """Encode a sample whose crop is seeded by its key, so that encoding it again gives the same sample."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(key[:16], 16))
        sample = read(*source)
    moments = family.encode_pixels(sample.pop("pixels")[None])[0]
    kept = {"moments": moments, "crop": sample["crop"]}
    if not source[1]:
        return kept
    return kept | {name: (sample[name] * 255).round().to(torch.uint8) for name in MASKS if name in sample}
