"""Photos, masks and class images as batches of tensors; photo and mask always move together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from persam_dreambooth.photos import files
from persam_dreambooth.training.config import DataConfig
from persam_dreambooth.training.crops import Size, cut_mask, cut_photo, draw_crop
from persam_dreambooth.training.families.base import Conditioning


@dataclass(frozen=True)
class InstancePhoto:
    """A photo of a subject, its mask, and what it is trained on as.

    Attributes:
        photo: the file.
        mask: its mask's file; None trains on the whole photo.
        prompt: with the identifier.
        weight: factor of its loss.
        concept: which of the run's subjects it shows, from 0.
        size: height and width of its crops, in pixels; None is the square of `--resolution`.
    """

    photo: Path
    mask: Path | None
    prompt: str = ""
    weight: float = 1.0
    concept: int = 0
    size: Size | None = None


def read_mask_tensor(path: Path) -> Tensor:
    """A mask file as (H, W) uint8 of 0 and 1."""
    return torch.from_numpy(files.read_mask(path)).to(torch.uint8)


class DreamBoothDataset(Dataset[dict[str, Any]]):
    """Instance photos with masks, paired with class images when there are any.

    An item has `photo`, its name, `pixels` (3, h, w) float32 in [-1, 1], `mask` (1, h, w) float32 in {0, 1},
    `crop` (see `Crop.conditioning`), `weight`, a scalar, and `prompt`, the photo's prompt's conditioning; with
    class images also `class_pixels` and `class_crop`, and with class prompts `class_prompt`.

    Args:
        instances: photos and masks.
        config: resolution, crops and flips.
        prompts: each prompt's conditioning.
        class_images: files of each concept; empty without prior preservation.
        class_prompts: each concept's, for class images and for the background prior; empty without both.
    """

    def __init__(
        self,
        instances: Sequence[InstancePhoto],
        config: DataConfig,
        prompts: Mapping[str, Conditioning],
        class_images: Sequence[Sequence[Path]] = (),
        class_prompts: Sequence[str] = (),
    ) -> None:
        self.instances, self.prompts = instances, prompts
        self.class_images, self.class_prompts = class_images, class_prompts
        self.config, self.interpolation = config, config.image_interpolation_mode or "bilinear"

    def __len__(self) -> int:
        return max(len(self.instances), sum(map(len, self.class_images)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        instance = self.instances[index % len(self.instances)]
        size = instance.size or (self.config.resolution,) * 2
        photo = files.read_photo(instance.photo)
        mask = None if instance.mask is None else read_mask_tensor(instance.mask)
        crop = draw_crop((photo.height, photo.width), size, self.config, mask)
        item = {
            "photo": instance.photo.name,
            "pixels": cut_photo(photo, crop, self.interpolation),
            "mask": torch.ones(1, *size) if mask is None else cut_mask(mask, crop),
            "prompt": self.prompts[instance.prompt],
            "weight": torch.tensor(instance.weight),
            "crop": crop.conditioning(),
        }
        if self.class_prompts:
            item["class_prompt"] = self.prompts[self.class_prompts[instance.concept]]
        if any(self.class_images):
            class_image = files.read_photo(self._class_image(index))
            crop = draw_crop((class_image.height, class_image.width), size, self.config)
            item["class_pixels"] = cut_photo(class_image, crop, self.interpolation)
            item["class_crop"] = crop.conditioning()
        return item

    def _class_image(self, index: int) -> Path:
        """The one that goes with an item: its subject's, in turn."""
        rounds, place = divmod(index, len(self.instances))
        concept = self.instances[place].concept
        before = [one.concept == concept for one in self.instances]
        images = self.class_images[concept]
        return images[(rounds * sum(before) + sum(before[:place])) % len(images)]


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Items to a batch, `[instances..., class images...]`.

    Returns:
        `photos`, B names, `pixels` (B or 2B, 3, h, w), `mask` (B, 1, h, w), `weight` (B,), `crop`
        (B or 2B, 6) int64, `prompt`, the conditioning of all of `pixels`, and with a class prompt
        `class_prompt`, B times that.
    """
    pixels, crops = [item["pixels"] for item in items], [item["crop"] for item in items]
    prompts = [item["prompt"] for item in items]
    if "class_pixels" in items[0]:
        pixels += [item["class_pixels"] for item in items]
        crops += [item["class_crop"] for item in items]
        prompts += [item["class_prompt"] for item in items]
    batch = {
        "photos": [item["photo"] for item in items],
        "pixels": torch.stack(pixels),
        "mask": torch.stack([item["mask"] for item in items]),
        "weight": torch.stack([item["weight"] for item in items]),
        "crop": torch.stack(crops),
        "prompt": _stacked(prompts),
    }
    if "class_prompt" in items[0]:
        batch["class_prompt"] = _stacked([item["class_prompt"] for item in items])
    return batch


def _stacked(prompts: Sequence[Conditioning]) -> Conditioning:
    return {key: torch.cat([one[key] for one in prompts]) for key in prompts[0]}
