"""Photos, masks and class images as batches of tensors; photo and mask always move together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

from persam_dreambooth.photos import files
from persam_dreambooth.training.config import DataConfig
from persam_dreambooth.training.families.base import Conditioning


@dataclass(frozen=True)
class InstancePhoto:
    """A photo of the subject and its mask.

    Attributes:
        photo: the file.
        mask: its mask's file; None trains on the whole photo.
    """

    photo: Path
    mask: Path | None


class RandomCrop(v2.RandomCrop):
    """v2's random crop, drawing its place as v1 does.

    v1 draws both coordinates even where one has no choice, and diffusers' scripts use v1: with
    the same draws, the same seed gives the same crops and the same losses.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Place and size of the crop, the same for all `flat_inputs`."""
        photo = next(one for one in flat_inputs if not isinstance(one, tv_tensors.Mask))
        top, left, height, width = v1.RandomCrop.get_params(photo, tuple(self.size))
        return {
            "needs_crop": True,
            "top": top,
            "left": left,
            "height": height,
            "width": width,
            "needs_pad": False,
            "padding": [0, 0, 0, 0],
        }


def transform(config: DataConfig) -> v2.Compose:
    """Photo and mask to tensors: resize, crop, flip, scale to [-1, 1] (the photo only)."""
    size, interpolation = config.resolution, v2.InterpolationMode(config.image_interpolation_mode or "bilinear")
    steps: list[Any] = [
        v2.Resize(size, interpolation=interpolation),
        v2.CenterCrop(size) if config.center_crop else RandomCrop(size),
    ]
    if config.random_flip:
        steps.append(v2.RandomHorizontalFlip())
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])]
    return v2.Compose(steps)


def read_mask_tensor(path: Path) -> tv_tensors.Mask:
    """A mask file as (1, H, W) uint8 of 0 and 1, which torchvision's transforms know to be a mask."""
    return tv_tensors.Mask(torch.from_numpy(files.read_mask(path)).to(torch.uint8)[None])


class DreamBoothDataset(Dataset[dict[str, Any]]):
    """Instance photos with masks, paired with class images when there are any.

    An item has `photo`, its name, `pixels` (3, R, R) float32 in [-1, 1], `mask` (1, R, R) float32 in {0, 1} and
    `prompt`, the instance prompt's conditioning; with class images also `class_pixels`, and with a
    class prompt `class_prompt`.

    Args:
        instances: photos and masks.
        config: resolution, crops and flips.
        prompt: the instance prompt's conditioning.
        class_images: files; empty without prior preservation.
        class_prompt: the class prompt's conditioning, for class images and for the background prior, or None.
    """

    def __init__(
        self,
        instances: Sequence[InstancePhoto],
        config: DataConfig,
        prompt: Conditioning,
        class_images: Sequence[Path] = (),
        class_prompt: Conditioning | None = None,
    ) -> None:
        self.instances, self.class_images = instances, class_images
        self.prompt, self.class_prompt = prompt, class_prompt
        self.transform = transform(config)

    def __len__(self) -> int:
        return max(len(self.instances), len(self.class_images))

    def __getitem__(self, index: int) -> dict[str, Any]:
        instance = self.instances[index % len(self.instances)]
        photo = files.read_photo(instance.photo)
        if instance.mask is None:
            mask = tv_tensors.Mask(torch.ones(1, photo.height, photo.width, dtype=torch.uint8))
        else:
            mask = read_mask_tensor(instance.mask)
        pixels, mask = self.transform(photo, mask)
        item = {"photo": instance.photo.name, "pixels": pixels, "mask": mask.as_subclass(Tensor).float()}
        item["prompt"] = self.prompt
        if self.class_prompt is not None:
            item["class_prompt"] = self.class_prompt
        if self.class_images:
            class_image = files.read_photo(self.class_images[index % len(self.class_images)])
            item["class_pixels"] = self.transform(class_image)
        return item


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Items to a batch, `[instances..., class images...]`.

    Returns:
        `photos`, B names, `pixels` (B or 2B, 3, R, R), `mask` (B, 1, R, R), `prompt`, the conditioning
        of all of `pixels`, and with a class prompt `class_prompt`, B times that.
    """
    pixels = [item["pixels"] for item in items]
    prompts = [item["prompt"] for item in items]
    if "class_pixels" in items[0]:
        pixels += [item["class_pixels"] for item in items]
        prompts += [item["class_prompt"] for item in items]
    batch = {
        "photos": [item["photo"] for item in items],
        "pixels": torch.stack([one.as_subclass(Tensor) for one in pixels]),
        "mask": torch.stack([item["mask"] for item in items]),
        "prompt": _stacked(prompts),
    }
    if "class_prompt" in items[0]:
        batch["class_prompt"] = _stacked([item["class_prompt"] for item in items])
    return batch


def _stacked(prompts: Sequence[Conditioning]) -> Conditioning:
    return {key: torch.cat([one[key] for one in prompts]) for key in prompts[0]}
