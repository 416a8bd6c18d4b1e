"""The data loader, and resuming an epoch mid-way."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from persam_dreambooth.training.data import remarks
from persam_dreambooth.training.data.buckets import BucketBatchSampler
from persam_dreambooth.training.data.dataset import Batch, DreamBoothDataset, Item, collate
from persam_dreambooth.training.data.prompts import prepare_prompts
from persam_dreambooth.training.data.samples import EncodedSamples
from persam_dreambooth.training.data.stream import PhotoStream, SeededDataset
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.runtime import workers
from persam_dreambooth.training.runtime.checkpoint import Progress
from persam_dreambooth.training.setup import Setup


def build_loader(run: Setup, family: Family) -> DataLoader[Item]:
    """Build the data loader, with prompts tokenized or encoded."""
    config = run.config
    uses_class_prompt = config.data.with_prior_preservation or config.mask.background_prior_weight > 0
    class_prompts = [str(concept.class_prompt) for concept in run.concepts] if uses_class_prompt else []
    remarks.cut_prompts(family, _owners(run, class_prompts))
    prompts = prepare_prompts(family, config, [*(photo.prompt for photo in run.instances), *class_prompts])
    dataset = DreamBoothDataset(run.instances, run.read, prompts, run.class_images, class_prompts)
    if config.data.cache_latents:
        # With a cache on disk the first process writes and the others read; in memory each has its own.
        turns = run.accelerator.main_process_first() if config.data.training_cache else nullcontext()
        with turns:
            dataset.read = EncodedSamples(family, run.read, dataset.sources(), run.accelerator.is_main_process)
        family.stow_autoencoder()
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
    """Return every prompt that is tokenized, with its name in messages."""
    owners = dict.fromkeys(class_prompts, "--class_prompt")
    if run.config.validation.validation_prompt:
        owners[run.config.validation.validation_prompt] = "--validation_prompt"
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
    is read with the state that torch had when it was requested; then the state of training itself is set again.
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
