"""The data loader: prompts prepared before training, reproducible draws, and resuming an epoch mid-way."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler

from persam_dreambooth.torch_utils import TensorCache
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data import remarks
from persam_dreambooth.training.data.crops import BucketBatchSampler
from persam_dreambooth.training.data.dataset import Batch, DreamBoothDataset, Item, collate
from persam_dreambooth.training.data.samples import EncodedSamples
from persam_dreambooth.training.families import Conditioning, Family
from persam_dreambooth.training.runtime import workers
from persam_dreambooth.training.runtime.checkpoint import Progress
from persam_dreambooth.training.setup import Setup


def prepare_prompts(family: Family, config: TrainingConfig, texts: Iterable[str]) -> dict[str, Conditioning]:
    """Return the conditioning of each text.

    With `--pre_compute_text_embeddings` the texts are encoded, and the family's text encoders are dropped; with
    `--training_cache` the result is also cached, keyed by tokens, text encoder weights and model flags.

    Args:
        family: on its device.
        config: the run's.
        texts: in any order; may repeat.
    """
    prompts = {text: family.tokenize(text) for text in dict.fromkeys(texts)}
    if not config.model.pre_compute_text_embeddings:
        return prompts
    cache = TensorCache(Path(config.data.training_cache) if config.data.training_cache else None)
    words = json.dumps([family.checksum("text"), asdict(config.model)], sort_keys=True)
    with family.at_work(*family.encoders):
        encoded = {text: _encoded(family, tokens, words, cache) for text, tokens in prompts.items()}
    family.drop_text_encoder()
    return encoded


@torch.no_grad()
def _encoded(family: Family, tokens: Conditioning, words: str, cache: TensorCache) -> Conditioning:
    digest = hashlib.sha256(words.encode())
    for name, value in sorted(tokens.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().cpu().numpy().data)
    kept = cache.get(digest.hexdigest())
    if kept is not None:
        return kept
    fresh = {name: value.cpu() for name, value in family.encode_prompt(tokens).items()}
    cache.put(digest.hexdigest(), fresh)
    return fresh


PHOTO, BATCH, ORDER = range(3)
"""Purposes of a seed: a photo's crop and flip; a batch's noise, timesteps and dropout; the order of an epoch."""


def seed_of(*numbers: int) -> int:
    """Return a 64-bit seed that differs for all lists of as many numbers (numpy's SeedSequence)."""
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


def build_loader(run: Setup, family: Family) -> DataLoader[Item]:
    """Build the data loader, with prompts tokenized or encoded."""
    config = run.config
    uses_class_prompt = config.data.with_prior_preservation or config.mask.background_prior_weight > 0
    class_prompts = [str(concept.class_prompt) for concept in run.concepts] if uses_class_prompt else []
    remarks.cut_prompts(family, _owners(run, class_prompts))
    dropout = config.data.caption_dropout
    empty = [""] if dropout > 0 else []
    prompts = prepare_prompts(family, config, [*(photo.prompt for photo in run.instances), *class_prompts, *empty])
    dataset = DreamBoothDataset(run.instances, run.read, prompts, run.class_images, class_prompts, dropout)
    if config.data.cache_latents:
        # With a cache on disk the first process writes and the others read; in memory each has its own.
        turns = run.accelerator.main_process_first() if config.data.training_cache else nullcontext()
        with turns, family.at_work("vae"):
            dataset.read = EncodedSamples(family, run.read, dataset.sources(), run.accelerator.is_main_process)
        family.stow("vae")
    settings: dict[str, Any] = {
        "collate_fn": collate,
        "num_workers": config.data.dataloader_num_workers,
        "worker_init_fn": workers.begin_worker,
    }
    if config.data.dataloader_num_workers:
        workers.end_at_exit()
    batch = config.data.train_batch_size
    if config.data.aspect_ratio_buckets:
        batches = BucketBatchSampler(RandomSampler(dataset), batch, [photo.size for photo in dataset.instances])
        return DataLoader(dataset, batch_sampler=batches, **settings)
    if config.optimization.seed is None or not config.optimization.seed_each_batch:
        return DataLoader(dataset, batch, shuffle=True, **settings)
    share = run.accelerator.process_index, run.accelerator.num_processes
    stream = PhotoStream(len(dataset), batch, config.optimization.seed, *share)
    return DataLoader(SeededDataset(dataset), batch, sampler=stream, **settings)


def _owners(run: Setup, class_prompts: Sequence[str]) -> dict[str, str]:
    """Return every prompt that will be tokenized, with its name in messages."""
    owners = dict.fromkeys(class_prompts, "--class_prompt")
    validation = run.config.validation
    named = {validation.validation_prompt: "--validation_prompt"}
    named[validation.final_validation_prompt] = "--final_validation_prompt"
    for prompt in validation.all_prompts:
        owners[prompt] = named.get(prompt, f"the validation prompt {prompt[:40]!r}")
    owners |= {concept.prompt: "--instance_prompt" for concept in run.concepts if concept.prompt}
    for photo in run.instances:
        owners.setdefault(photo.prompt, f"the prompt of {photo.name}")
    return owners


def stream_of(loader: DataLoader[Item]) -> PhotoStream | None:
    """Return the loader's `PhotoStream` with `--seed_each_batch`, else None."""
    return loader.sampler if isinstance(loader.sampler, PhotoStream) else None


def remaining_batches(loader: Any, progress: Progress, stream: PhotoStream | None = None) -> Iterator[Batch]:
    """Yield the current epoch's remaining batches; with a stream, which is endless, all further batches.

    The order of photos depends on a generator's state at the start of the epoch: torch's global generator or, with
    several processes, the one that Accelerate synchronizes. A resumed epoch is read again from its start, so that
    workers draw the same random numbers. Accelerate prefetches one batch, so the batch that was waiting
    is read with the state that torch had when it was requested; then the state of training itself is restored.
    """
    if stream is not None:
        stream.skip(progress.batches)
        yield from workers.watched(iter(loader))
        return
    order = getattr(loader, "synchronized_generator", None) or torch.default_generator
    batches = workers.watched(iter(loader))
    if progress.batches == 0:
        progress.epoch_rng, progress.torch_rng = order.get_state(), torch.get_rng_state()
    else:
        left = torch.get_rng_state()
        torch.set_rng_state(progress.torch_rng)
        order.set_state(progress.epoch_rng)
        for taken in range(1, progress.batches + 1):
            if taken == progress.batches:
                torch.set_rng_state(progress.fetch_rng)
            next(batches, None)  # with a different batch size the epoch may already be over
        torch.set_rng_state(left)
    while True:
        progress.fetch_rng = torch.get_rng_state()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch
