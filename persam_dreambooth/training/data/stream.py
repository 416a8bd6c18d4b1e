"""`--seed_each_batch`: random draws that depend on the batch number only, not on processes and interruptions."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from persam_dreambooth.training.data.dataset import DreamBoothDataset, Item

PHOTO, BATCH, ORDER = range(3)
"""Purposes of a seed: a photo's crop and flip; a batch's noise, timesteps and dropout; the order of an epoch."""


def seed_of(*numbers: int) -> int:
    """Return a 64-bit seed that differs for every list of numbers (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class PhotoStream(Sampler[tuple[int, int]]):
    """Endless sampler: epoch after epoch without a break, each shuffled again.

    Accelerate deals out the batches in turn, so that (processes x accumulation) consecutive batches make one step,
    whichever processes get them. If an epoch ends within a batch or step, the next epoch continues there: no padding
    and no cutting, which would depend on the number of processes.

    Yields an index and the seed of its crop and flip; its length is that of one epoch.

    Args:
        photos: number of photos.
        batch: photos in a batch.
        seed: the run's.
        process: index of this process.
        processes: number of processes that share the stream.
    """

    def __init__(self, photos: int, batch: int, seed: int, process: int, processes: int) -> None:
        self.photos, self.batch, self.seed = photos, batch, seed
        self.process, self.processes = process, processes
        self.start = 0
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return self.photos

    def __iter__(self) -> Iterator[tuple[int, int]]:
        number = self.start
        while True:
            epoch, place = divmod(number, self.photos)
            yield self._epoch(epoch)[place], seed_of(self.seed, PHOTO, number)
            number += 1

    def skip(self, batches: int) -> None:
        """Begin the next pass after this number of batches per process."""
        self.start = batches * self.processes * self.batch

    def seed_batch(self, number: int) -> None:
        """Seed all of torch's generators for this process's batch `number`, counted from 0."""
        torch.manual_seed(seed_of(self.seed, BATCH, number * self.processes + self.process))

    def _shuffled(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, ORDER, epoch))
        return torch.randperm(self.photos, generator=generator).tolist()


class SeededDataset(Dataset[Item]):
    """A dataset that is indexed by (index, seed); torch's global random state is not changed."""

    def __init__(self, dataset: DreamBoothDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        index, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPU's as well
            return self.dataset[index]
