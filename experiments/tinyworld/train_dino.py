"""Train tinyworld's DINOv3, whose patch features tell individuals apart.

    python experiments/tinyworld/train_dino.py

Writes `models/dino` (a transformers DINOv3ViTModel). The real DINOv3 learns without labels; at this size labels do
its work: patches of the same individual in two pictures attract each other, as do patches of the same scene, and all
others repel each other (Khosla et al., "Supervised Contrastive Learning", equation 2).
"""

from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm
from transformers import DINOv3ViTModel

from cards import save_card
from corpus import CROWDED, batches
from fitting import fit
from models import DINO, dino
from recipes import HELD_OUT_PAIRS, KIND_NAMES, SCENES, Recipe, random_recipe
from subjects import ACCESSORIES, COLOURS, PATTERNS
from train_sam import sam_pixels
from training_flags import TrainingFlags, read_flags
from world import SIDE, SUPERSAMPLING, Picture, draw

PAIRS = 12000
PATCH = 4
TEMPERATURE = 0.1
SAMPLED = 8
"""Patches that one picture contributes for each of its subjects, and for its scene."""
PURE = 0.75
"""Share of a patch's pixels that have to be of the same owner."""
ATTRIBUTES = {"kind": KIND_NAMES, "main": COLOURS, "second": COLOURS, "pattern": PATTERNS, "accessory": ACCESSORIES}
"""Attributes that linear heads predict from a subject's patches; the heads are dropped after training."""


def draw_pair(rng: np.random.Generator) -> tuple[Picture, Picture]:
    """Draw two pictures whose first subject is the same individual, each with or without another beside it."""
    first = random_recipe(rng, crowd=CROWDED)
    identity = first.subjects[0][0]
    while (second := random_recipe(rng, crowd=CROWDED)) and (identity.kind, second.scene) in HELD_OUT_PAIRS:
        pass
    subjects = ((identity, second.subjects[0][1]), *second.subjects[1:])
    return draw(first), draw(Recipe(**(vars(second) | {"subjects": subjects})))


def owners(picture: Picture) -> NDArray[np.int8]:
    """Return (side / PATCH,) * 2: 1 for the first subject, 2 for the second, 0 for the scene, -1 for mixed patches."""
    of_label = np.array([0, *(owner + 1 for owner, _ in picture.names)], dtype=np.int8)
    cells, fine = SIDE // PATCH, PATCH * SUPERSAMPLING
    pixels = of_label[picture.labels].reshape(cells, fine, cells, fine)
    shares = np.stack([(pixels == owner).mean(axis=(1, 3)) for owner in range(3)])
    return np.where(shares.max(0) >= PURE, shares.argmax(0), -1).astype(np.int8)


def _draw_chunk(job: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int8], NDArray[np.int64]]:
    seed, start, count = job
    rng = np.random.default_rng([seed, start])
    pictures = [picture for _ in range(count) for picture in draw_pair(rng)]
    return (
        np.stack([np.asarray(picture.image) for picture in pictures]),
        np.stack([owners(picture) for picture in pictures]),
        np.array([_facts(picture) for picture in pictures]),
    )


def _facts(picture: Picture) -> list[int]:
    """Return the scene's number, then for two subjects the numbers of their attributes, -1 for a missing subject."""
    facts = [SCENES.index(picture.recipe.scene)]
    people = [identity for identity, _ in picture.recipe.subjects]
    for place in range(2):
        for name, values in ATTRIBUTES.items():
            facts.append(list(values).index(getattr(people[place], name)) if place < len(people) else -1)
    return facts


def load_pairs(work: Path, seed: int = 31) -> tuple[NDArray[np.uint8], NDArray[np.int8], NDArray[np.int64]]:
    """Draw `PAIRS` pairs, or read them: (2 PAIRS, side, side, 3) pictures, their owners, their facts."""
    file = work / f"individuals-{PAIRS}-{seed}.npz"
    if not file.exists():
        work.mkdir(parents=True, exist_ok=True)
        jobs = [(seed, start, 100) for start in range(0, PAIRS, 100)]
        with get_context("spawn").Pool() as pool:
            drawn = list(tqdm(pool.imap(_draw_chunk, jobs), "drawing pairs", len(jobs)))
        np.savez(file, *(np.concatenate(parts) for parts in zip(*drawn, strict=True)))
    stored = np.load(file)
    return stored["arr_0"], stored["arr_1"], stored["arr_2"]


def individual_numbers(facts: Tensor) -> Tensor:
    """Return (B, 3) int64: the number of a picture's scene, of its first and of its second subject, all different."""
    sizes = [len(values) for values in ATTRIBUTES.values()]
    numbers = [-1 - facts[:, 0]]
    for people in facts[:, 1:].split(len(sizes), dim=1):
        number = torch.zeros(len(facts), dtype=torch.long)
        for value, size in zip(people.unbind(1), sizes, strict=True):
            number = number * size + value.clamp_min(0)
        numbers.append(number)
    return torch.stack(numbers, dim=1)


def sample(owner: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw up to `SAMPLED` patches of each owner in each picture.

    Args:
        owner: (B, cells^2) int64 from `owners`.
        draw: the random numbers to draw from.

    Returns:
        The patches' pictures, cells and owners, (n,) int64 each.
    """
    pictures, cells = [], []
    order = torch.rand(owner.shape, generator=draw).argsort(1)
    for place in range(3):
        shuffled = owner.gather(1, order) == place
        chosen = shuffled & (shuffled.cumsum(1) <= SAMPLED)
        picture, rank = chosen.nonzero(as_tuple=True)
        pictures.append(picture)
        cells.append(order[picture, rank])
    picture, cell = torch.cat(pictures), torch.cat(cells)
    return picture, cell, owner[picture, cell]


def contrastive(features: Tensor, individual: Tensor) -> Tensor:
    """Return the supervised contrastive loss of (n, C) patch features; equal numbers are positives."""
    unit = F.normalize(features, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    positive = (individual[:, None] == individual[None]) & ~itself
    chance = logits.log_softmax(1).masked_fill(~positive, 0)
    return -(chance.sum(1) / positive.sum(1).clamp_min(1)).mean()


class Reader(nn.Module):
    """The model in training, with the heads that are dropped afterwards."""

    def __init__(self, vit: DINOv3ViTModel) -> None:
        super().__init__()
        self.vit = vit
        self.heads = nn.ModuleList(nn.Linear(vit.config.hidden_size, len(values)) for values in ATTRIBUTES.values())

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, cells^2, C) patch features of (B, 3, side, side) pictures."""
        tokens: Tensor = self.vit(pixels).last_hidden_state
        return tokens[:, 1 + self.vit.config.num_register_tokens :].float()


def train(flags: TrainingFlags) -> None:
    """Train the model, save it and its training record."""
    torch.manual_seed(flags.seed)
    model = Reader(dino()).to(flags.device)
    images, owned, known = load_pairs(flags.work)
    owner, facts = torch.from_numpy(owned).long().flatten(1), torch.from_numpy(known)
    order = batches(PAIRS, flags.batch_size // 2, flags.seed, flags.first_step("dino"))

    def loss_of(step: int) -> Tensor:
        pair = next(order)
        index = torch.stack([2 * pair, 2 * pair + 1], dim=1).flatten()
        draw = torch.Generator().manual_seed(flags.seed * 1_000_003 + step)
        light = 0.8 + 0.4 * torch.rand(len(index), 1, 1, 1, generator=draw)
        pixels = sam_pixels(images[index.numpy()]) * light
        features = model(pixels.to(flags.device))
        picture, cell, place = sample(owner[index], draw)
        chosen = features[picture, cell]
        loss = contrastive(chosen, individual_numbers(facts[index])[picture, place].to(flags.device))
        subject = place > 0
        for number, head in enumerate(model.heads):
            truth = facts[index[picture[subject]], 1 + len(ATTRIBUTES) * (place[subject] - 1) + number]
            loss = loss + 0.3 * F.cross_entropy(head(chosen[subject.to(flags.device)]), truth.to(flags.device))
        return loss

    fitted = fit(model, loss_of, flags.steps, flags.batch_size, flags.learning_rate, flags.state("dino"))
    model.vit.half().save_pretrained(DINO)
    save_card(DINO, fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=3000, batch_size=32, learning_rate=1e-3))
