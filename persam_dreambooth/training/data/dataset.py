"""Photos, masks and class images as batches of tensors; photo and mask are always cropped alike."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from persam_dreambooth.training.data.crops import Size
from persam_dreambooth.training.data.samples import ReadSample, Source
from persam_dreambooth.training.families.noised import Conditioning


@dataclass(frozen=True)
class InstancePhoto:
    """A photo of a subject, its mask, its prompt and how it counts.

    Attributes:
        photo: the file.
        mask: file of its mask; None trains on the whole photo.
        size: height and width of its crops, in pixels.
        prompt: with the identifier.
        weight: factor of its loss.
        concept: index of its subject, from 0.
        identifier: positions of the identifier's tokens in the prompt, if the attention loss needs them.
        repeats: how often it is shown in an epoch.
        label: its name in messages, if the file name is not unique; empty is the file name.
    """

    photo: Path
    mask: Path | None
    size: Size
    prompt: str = ""
    weight: float = 1.0
    concept: int = 0
    identifier: tuple[int, ...] = ()
    repeats: int = 1
    label: str = ""

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.label or self.photo.name


class DreamBoothDataset(Dataset[dict[str, Any]]):
    """Instance photos with masks, paired with class images when there are any.

    A photo has `repeats` items. An item is a `Sample` plus `photo` (its name), `weight` (a scalar), `identifier`
    (positions of its tokens) and `prompt` (its prompt's conditioning). With class images it also holds a second
    sample, whose keys begin with `class_`; with class prompts also `class_prompt`. `read`, which makes the samples,
    may be replaced.

    Args:
        instances: photos with their masks, each once.
        read: makes the samples.
        prompts: conditioning of each prompt.
        class_images: files of each concept; empty without prior preservation.
        class_prompts: one per concept, for class images and for the background prior; empty without either.
    """

    def __init__(
        self,
        instances: Sequence[InstancePhoto],
        read: ReadSample,
        prompts: Mapping[str, Conditioning],
        class_images: Sequence[Sequence[Path]] = (),
        class_prompts: Sequence[str] = (),
    ) -> None:
        self.instances, self.prompts = [photo for photo in instances for _ in range(photo.repeats)], prompts
        self.class_images, self.class_prompts = class_images, class_prompts
        self.read = read
        # For each photo: how many photos of its subject come before it, and how many there are in all.
        own = Counter(photo.concept for photo in self.instances)
        self._own = [own[number] for number in range(len(class_images))]
        before = defaultdict[int, Iterator[int]](count)
        self._places = [(next(before[photo.concept]), own[photo.concept]) for photo in self.instances]

    def __len__(self) -> int:
        if len(self.class_images) < 2:
            return max(len(self.instances), *map(len, self.class_images), 1)
        # Enough rounds to use all class images of every subject.
        rounds = (
            math.ceil(len(images) / own) for images, own in zip(self.class_images, self._own, strict=True) if own
        )
        return len(self.instances) * max(1, *rounds)

    def __getitem__(self, index: int) -> dict[str, Any]:
        instance = self.instances[index % len(self.instances)]
        item: dict[str, Any] = dict(self.read(instance.photo, instance.mask, instance.size))
        item |= {"photo": instance.name, "prompt": self.prompts[instance.prompt]}
        item |= {"weight": torch.tensor(instance.weight), "identifier": instance.identifier}
        if self.class_prompts:
            item["class_prompt"] = self.prompts[self.class_prompts[instance.concept]]
        if any(self.class_images):
            class_image = self.read(self._class_image(index), None, instance.size)
            item |= {f"class_{name}": value for name, value in class_image.items()}
        return item

    def sources(self) -> list[Source]:
        """Return all photos, masks and sizes that items are made of."""
        own = [(photo.photo, photo.mask, photo.size) for photo in self.instances]
        if not any(self.class_images):
            return own
        class_images = [self._class_image(index) for index in range(len(self))]
        sizes = [self.instances[index % len(self.instances)].size for index in range(len(self))]
        return own + [(path, None, size) for path, size in zip(class_images, sizes, strict=True)]

    def _class_image(self, index: int) -> Path:
        """Return the class image that is paired with an item: one of its subject's, in turn."""
        rounds, place = divmod(index, len(self.instances))
        images = self.class_images[self.instances[place].concept]
        before, own = self._places[place]
        return images[(rounds * own + before) % len(images)]


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collate items into a batch, `[instances..., class images...]`.

    Returns:
        `photos`, B names, `identifiers`, B tuples of token positions, `pixels` (B or 2B, 3, h, w) or `moments`
        (B or 2B, 2 C, h', w'), `mask` (B, 1, h, w), `weight` (B,), `crop` (B or 2B, 6) int64, `prompt`, the
        conditioning of all B or 2B; with a class prompt also `class_prompt`, its conditioning B times.
    """
    first = items[0]
    both = [name for name in ("pixels", "moments", "crop", "prompt") if name in first]
    metrics = {name: [item[name] for item in items] for name in (*both, "mask", "weight")}
    if "class_crop" in first:
        for name in both:
            metrics[name] += [item[f"class_{name}"] for item in items]
    prompts = {"prompt": metrics.pop("prompt")}
    if "class_prompt" in first:
        prompts["class_prompt"] = [item["class_prompt"] for item in items]
    batch: dict[str, Any] = {name: torch.stack(values) for name, values in metrics.items()}
    batch |= {name: _stacked(values) for name, values in prompts.items()}
    return batch | {f"{name}s": [item[name] for item in items] for name in ("photo", "identifier")}


def _stacked(prompts: Sequence[Conditioning]) -> Conditioning:
    return {key: torch.cat([prompt[key] for prompt in prompts]) for key in prompts[0]}
