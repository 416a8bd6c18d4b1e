"""Photos, masks and class images as batches of tensors; photo and mask are always cropped alike."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from persam_dreambooth.training.data.crops import Size
from persam_dreambooth.training.data.samples import MASKS, ReadSample, Sample, Source
from persam_dreambooth.training.families.base import Conditioning


@dataclass(frozen=True)
class Region:
    """A part of a photo that is learned, and the words of the prompt that name it.

    Attributes:
        mask: file of its mask.
        phrase: its words in the photo's prompt; empty if it is the photo's only one, which `--identifier` names.
        places: positions of the tokens of its words in the prompt, if the attention loss needs them.
    """

    mask: Path
    phrase: str = ""
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class InstancePhoto:
    """A photo of a subject, its masks, its prompt and how it counts.

    Attributes:
        photo: the file.
        regions: its masks; none trains on the whole photo, of several the loss takes the maximum.
        size: height and width of its crops, in pixels.
        shape: height and width of the upright photo, in pixels.
        prompt: with the identifier.
        weight: factor of its loss.
        concept: index of its subject, from 0.
        repeats: how often it is shown in an epoch.
        label: its name in messages, if the file name is not unique; empty is the file name.
        exclude: file of its exclusion mask, whose pixels are in no term of the loss; None excludes nothing.
    """

    photo: Path
    regions: tuple[Region, ...]
    size: Size
    shape: Size
    prompt: str = ""
    weight: float = 1.0
    concept: int = 0
    repeats: int = 1
    label: str = ""
    exclude: Path | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.label or self.photo.name

    @property
    def source(self) -> Source:
        """The files and the size that its samples are made of."""
        return self.photo, tuple(region.mask for region in self.regions), self.size, self.exclude


@dataclass(frozen=True, eq=False)
class Item:
    """A photo's sample with its prompt; with prior preservation a class image's too.

    Attributes:
        photo: the photo's name.
        sample: crop of the photo and its masks.
        prompt: conditioning of its prompt, batch size 1.
        weight: factor of its loss.
        places: for each region, the positions of its words' tokens in the prompt.
        class_sample: crop of a class image.
        class_prompt: conditioning of the class prompt, batch size 1.
    """

    photo: str
    sample: Sample
    prompt: Conditioning
    weight: float
    places: tuple[tuple[int, ...], ...]
    class_sample: Sample | None = None
    class_prompt: Conditioning | None = None


class Batch(NamedTuple):
    """One batch: B instance photos, followed by B class images with prior preservation.

    A named tuple, since Accelerate moves those to the device. N is B, or 2 B with class images.

    Attributes:
        photos: B names.
        mask: (B, 1, h, w) float32 in [0, 1], 1 on the subject; the maximum over a photo's regions.
        weight: (B,) float32, factor of each photo's loss.
        prompt: conditioning of all N.
        pixels: (N, 3, h, w) float32 in [-1, 1]; None if the latents were encoded before.
        moments: (N, 2 C, h', w') of their latents, in place of `pixels`.
        crop: (N, 6) int64, see `Crop.conditioning`; None for families that do not use it.
        class_prompt: conditioning of the class prompt, B times; None without one.
        places: for each of the B photos and each of its regions, positions of tokens, for the attention loss.
        regions: (R, 1, h, w) float32 in [0, 1], the masks of all regions, photo by photo; None if every photo has
            just one, which is its mask.
        exclude: (B, 1, h, w) float32, 1 where a pixel is in no term of the loss; None if no photo has such a mask.
    """

    photos: list[str]
    mask: Tensor
    weight: Tensor
    prompt: Conditioning
    pixels: Tensor | None = None
    moments: Tensor | None = None
    crop: Tensor | None = None
    class_prompt: Conditioning | None = None
    places: list[tuple[tuple[int, ...], ...]] = []  # noqa: RUF012 - a default that nobody changes
    regions: Tensor | None = None
    exclude: Tensor | None = None


class DreamBoothDataset(Dataset[Item]):
    """Instance photos with masks, paired with class images when there are any.

    A photo has `repeats` items. The attribute `read` may be replaced later, for instance by `EncodedSamples`.

    Args:
        instances: photos with their masks, each once.
        read: makes the samples.
        prompts: conditioning of each prompt.
        class_images: files of each concept; empty without prior preservation.
        class_prompts: one per concept, for class images and for the background prior; empty without either.
        caption_dropout: share of the items whose photo gets the empty prompt, drawn with the global random generator.
    """

    def __init__(
        self,
        instances: Sequence[InstancePhoto],
        read: ReadSample,
        prompts: Mapping[str, Conditioning],
        class_images: Sequence[Sequence[Path]] = (),
        class_prompts: Sequence[str] = (),
        caption_dropout: float = 0.0,
    ) -> None:
        self.instances, self.prompts = [photo for photo in instances for _ in range(photo.repeats)], prompts
        self.class_images, self.class_prompts = class_images, class_prompts
        self.read, self.caption_dropout = read, caption_dropout
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

    def __getitem__(self, index: int) -> Item:
        instance = self.instances[index % len(self.instances)]
        sample = self.read(*instance.source)
        class_sample = None
        if any(self.class_images):
            class_sample = self.read(self._class_image(index), (), instance.size, None)
        return Item(
            instance.name,
            sample,
            self.prompts["" if self._is_dropped() else instance.prompt],
            instance.weight,
            tuple(region.places for region in instance.regions),
            class_sample,
            self.prompts[self.class_prompts[instance.concept]] if self.class_prompts else None,
        )

    def _is_dropped(self) -> bool:
        return self.caption_dropout > 0 and float(torch.rand(())) < self.caption_dropout

    def sources(self) -> list[Source]:
        """Return all photos, masks, sizes and exclusion masks that items are made of."""
        own = [photo.source for photo in self.instances]
        if not any(self.class_images):
            return own
        class_images = [self._class_image(index) for index in range(len(self))]
        sizes = [self.instances[index % len(self.instances)].size for index in range(len(self))]
        return own + [(path, (), size, None) for path, size in zip(class_images, sizes, strict=True)]

    def _class_image(self, index: int) -> Path:
        """Return the class image that is paired with an item: one of its subject's, in turn."""
        rounds, place = divmod(index, len(self.instances))
        images = self.class_images[self.instances[place].concept]
        before, own = self._places[place]
        return images[(rounds * own + before) % len(images)]


def collate(items: Sequence[Item]) -> Batch:
    """Collate items into a batch."""
    samples, prompts = [item.sample for item in items], [item.prompt for item in items]
    class_prompts = [item.class_prompt for item in items if item.class_prompt is not None]
    for item in items:
        if item.class_sample is not None and item.class_prompt is not None:
            samples.append(item.class_sample)
            prompts.append(item.class_prompt)
    stacked = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0] if key not in MASKS}
    return Batch(
        photos=[item.photo for item in items],
        mask=torch.stack([item.sample["mask"] for item in items]),
        weight=torch.tensor([item.weight for item in items]),
        prompt=stack_prompts(prompts),
        class_prompt=stack_prompts(class_prompts) if class_prompts else None,
        places=[item.places for item in items],
        regions=_regions([item.sample for item in items]),
        exclude=_exclusions([item.sample for item in items]),
        **stacked,
    )


def _regions(samples: Sequence[Sample]) -> Tensor | None:
    """Concatenate the masks of all regions, (R, 1, h, w); None if no sample has several."""
    if not any("regions" in sample for sample in samples):
        return None
    return torch.cat([sample.get("regions", sample["mask"]) for sample in samples]).unsqueeze(1)


def _exclusions(samples: Sequence[Sample]) -> Tensor | None:
    """Stack the exclusion masks, (B, 1, h, w), zeros for samples without one; None if no sample has one."""
    if not any("exclude" in sample for sample in samples):
        return None
    return torch.stack([sample.get("exclude", torch.zeros_like(sample["mask"])) for sample in samples])


def stack_prompts(prompts: Sequence[Conditioning]) -> Conditioning:
    """Stack the conditioning of prompts, each of batch size 1; shorter ones are padded with zeros at their end."""
    return {key: pad_sequence([prompt[key][0] for prompt in prompts], batch_first=True) for key in prompts[0]}
