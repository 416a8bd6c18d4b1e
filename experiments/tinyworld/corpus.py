"""Many drawn pictures in memory, reproducible from a seed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from recipes import KIND_NAMES, SCENES, random_recipe
from world import SIDE, SUPERSAMPLING, draw

CHUNK = 500
Crowd = tuple[float, float, float, float]
ALONE: Crowd = (0.05, 0.85, 0.07, 0.03)
CROWDED: Crowd = (0.0, 0.55, 0.25, 0.2)


@dataclass(frozen=True)
class Corpus:
    """Drawn pictures and their ground truth.

    Attributes:
        images: (N, side, side, 3) uint8 RGB.
        labels: (N, side, side) uint8, `Picture.labels` at each pixel's centre.
        facts: for each picture its caption, scene, kinds, identities and the names of its labels.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    facts: list[dict]

    def __len__(self) -> int:
        return len(self.facts)

    def pixels(self, index: Tensor) -> Tensor:
        """Return the pictures at `index` as (B, 3, side, side) float32 in [-1, 1]."""
        return to_pixels(self.images[index.numpy()])


def to_pixels(images: NDArray[np.uint8]) -> Tensor:
    """Convert (B, side, side, 3) uint8 to (B, 3, side, side) float32 in [-1, 1], as diffusers' autoencoders expect."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def image_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Convert images of any size and mode to (N, 3, side, side) float32 in [-1, 1], of the side of all models."""
    return to_pixels(np.stack([np.asarray(image.convert("RGB").resize((SIDE, SIDE))) for image in images]))


def load_corpus(
    work: Path,
    name: str,
    count: int,
    seed: int,
    held_out: bool = False,
    crowd: Crowd = ALONE,
    side: int = 64,
    mirrored: float = 0.5,
) -> Corpus:
    """Draw a corpus, or read it if it was drawn before.

    Args:
        work: a folder for files that can be made again.
        name: the corpus's name in that folder.
        count: number of pictures.
        seed: for drawing them.
        held_out: whether to draw held-out identities; see `recipes.random_recipe`.
        crowd: how many subjects a picture has; see there.
        side: pixels of a picture's side.
        mirrored: share of subjects that face left.
    """
    folder = work / f"{name}-{count}-{seed}-{side}"
    if not (folder / "facts.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, side, side, 3))
        labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.uint8, (count, side, side))
        jobs = [
            (seed, start, min(CHUNK, count - start), held_out, crowd, side, mirrored)
            for start in range(0, count, CHUNK)
        ]
        facts: list[dict] = []
        with get_context("spawn").Pool() as pool:
            for job, drawn in zip(jobs, tqdm(pool.imap(_draw_chunk, jobs), f"drawing {name}", len(jobs)), strict=True):
                images[job[1] : job[1] + job[2]], labels[job[1] : job[1] + job[2]] = drawn[:2]
                facts.extend(drawn[2])
        images.flush()
        labels.flush()
        (folder / "facts.json").write_text(json.dumps(facts))
    stored = json.loads((folder / "facts.json").read_text())
    return Corpus(np.load(folder / "images.npy"), np.load(folder / "labels.npy"), stored)


def _draw_chunk(job: tuple) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[dict]]:
    seed, start, count, held_out, crowd, side, mirrored = job
    rng = np.random.default_rng([seed, start])
    images, labels, facts = [], [], []
    for _ in range(count):
        picture = draw(random_recipe(rng, held_out, crowd=crowd, mirrored=mirrored), side)
        identities = [identity for identity, _ in picture.recipe.subjects]
        images.append(np.asarray(picture.image))
        middle = slice(SUPERSAMPLING // 2, None, SUPERSAMPLING)
        labels.append(picture.labels[middle, middle])
        facts.append(
            {
                "caption": picture.caption,
                "scene": picture.recipe.scene,
                "kinds": [identity.kind for identity in identities],
                "identities": [vars(identity) for identity in identities],
                "names": picture.names,
            }
        )
    return np.stack(images), np.stack(labels), facts


def batches(count: int, size: int, seed: int, step: int = 0) -> Iterator[Tensor]:
    """Yield the indices of each batch from `step` on: every picture once per epoch, in an order fixed by the seed."""
    per_epoch = count // size
    while True:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1000 + step // per_epoch))
        for number in range(step % per_epoch, per_epoch):
            yield order[number * size : (number + 1) * size]
            step += 1


def class_numbers(facts: list[dict]) -> tuple[Tensor, Tensor]:
    """Return the indices of each picture's scene and of its first subject's kind; -1 without a subject."""
    scenes = torch.tensor([SCENES.index(fact["scene"]) for fact in facts])
    kinds = torch.tensor([KIND_NAMES.index(fact["kinds"][0]) if fact["kinds"] else -1 for fact in facts])
    return scenes, kinds
