"""Photos, masks and class images as batches of tensors; photo and mask always move together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
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
    """A photo of a subject, its mask, and what it is trained on as.

    Attributes:
        photo: the file.
        mask: its mask's file; None trains on the whole photo.
        prompt: with the identifier.
        weight: factor of its loss.
        concept: which of the run's subjects it shows, from 0.
    """

    photo: Path
    mask: Path | None
    prompt: str = ""
    weight: float = 1.0
    concept: int = 0


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


def frame_of(photo: Image.Image) -> tv_tensors.BoundingBoxes:
    """The whole photo as a box, which moves with it through torchvision's transforms and is never clamped."""
    size = (photo.height, photo.width)
    box = [0.0, 0.0, photo.width, photo.height]
    return tv_tensors.BoundingBoxes([box], format="XYXY", canvas_size=size, clamping_mode=None)


def crop_of(photo: Image.Image, frame: tv_tensors.BoundingBoxes) -> Tensor:
    """Where a crop lies in its photo: SDXL's size and crop conditioning (arXiv 2307.01952, section 2.2).

    Args:
        photo: upright, before any transform.
        frame: `frame_of(photo)` after the transforms, in pixels of the crop.

    Returns:
        (6,) int64: height and width of the photo, top and left of the crop in the resized photo (of a
        mirrored photo: in the mirrored one, as in diffusers' scripts), height and width of the crop.
    """
    left, top = (-frame[0, :2]).round().int().tolist()
    return torch.tensor([photo.height, photo.width, top, left, *frame.canvas_size])


class DreamBoothDataset(Dataset[dict[str, Any]]):
    """Instance photos with masks, paired with class images when there are any.

    An item has `photo`, its name, `pixels` (3, R, R) float32 in [-1, 1], `mask` (1, R, R) float32 in {0, 1},
    `crop` (see `crop_of`), `weight`, a scalar, and `prompt`, the photo's prompt's conditioning; with class images also
    `class_pixels` and `class_crop`, and with class prompts `class_prompt`.

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
        self.transform = transform(config)

    def __len__(self) -> int:
        return max(len(self.instances), sum(map(len, self.class_images)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        instance = self.instances[index % len(self.instances)]
        photo = files.read_photo(instance.photo)
        if instance.mask is None:
            mask = tv_tensors.Mask(torch.ones(1, photo.height, photo.width, dtype=torch.uint8))
        else:
            mask = read_mask_tensor(instance.mask)
        pixels, mask, frame = self.transform(photo, mask, frame_of(photo))
        item = {"pixels": pixels, "mask": mask.as_subclass(Tensor).float(), "prompt": self.prompts[instance.prompt]}
        item |= {"photo": instance.photo.name, "weight": torch.tensor(instance.weight), "crop": crop_of(photo, frame)}
        if self.class_prompts:
            item["class_prompt"] = self.prompts[self.class_prompts[instance.concept]]
        if any(self.class_images):
            class_image = files.read_photo(self._class_image(index))
            item["class_pixels"], frame = self.transform(class_image, frame_of(class_image))
            item["class_crop"] = crop_of(class_image, frame)
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
        `photos`, B names, `pixels` (B or 2B, 3, R, R), `mask` (B, 1, R, R), `weight` (B,), `crop`
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
        "pixels": torch.stack([one.as_subclass(Tensor) for one in pixels]),
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
