"""Batches in their order: the data loader, and an epoch that is gone on with where it was left."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from persam_dreambooth.training.data import remarks
from persam_dreambooth.training.data.buckets import BucketBatchSampler
from persam_dreambooth.training.data.dataset import DreamBoothDataset, collate
from persam_dreambooth.training.data.prompts import prepare_prompts
from persam_dreambooth.training.data.samples import EncodedSamples
from persam_dreambooth.training.data.stream import PhotoStream, SeededDataset
from persam_dreambooth.training.families import Family
from persam_dreambooth.training.runtime import workers
from persam_dreambooth.training.runtime.checkpoint import Progress
from persam_dreambooth.training.setup import Setup


def build_loader(run: Setup, family: Family) -> DataLoader[dict[str, Any]]:
    """The data loader, its prompts tokenized or encoded."""
    config = run.config
    uses_class_prompt = config.data.with_prior_preservation or config.mask.background_prior_weight > 0
    class_prompts = [str(one.data.class_prompt) for one in run.concepts] if uses_class_prompt else []
    remarks.cut_prompts(family, _owners(run, class_prompts))
    prompts = prepare_prompts(family, config, [*(one.prompt for one in run.instances), *class_prompts])
    dataset = DreamBoothDataset(run.instances, run.read, prompts, run.class_images, class_prompts)
    if config.data.cache_latents:
        # The others only read what the first one has put on a disk; in memory each has its own.
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
        batches = BucketBatchSampler(RandomSampler(dataset), batch, [one.size for one in dataset.instances])
        return DataLoader(dataset, batch_sampler=batches, **settings)
    if config.optimization.seed is None or not config.optimization.seed_each_batch:
        return DataLoader(dataset, batch, shuffle=True, **settings)
    share = run.accelerator.process_index, run.accelerator.num_processes
    stream = PhotoStream(len(dataset), batch, config.optimization.seed, *share)
    return DataLoader(SeededDataset(dataset), batch, sampler=stream, **settings)


def _owners(run: Setup, class_prompts: Sequence[str]) -> dict[str, str]:
    """Every prompt that is tokenized, and what messages call it."""
    owners = dict.fromkeys(class_prompts, "--class_prompt")
    if run.config.validation.validation_prompt:
        owners[run.config.validation.validation_prompt] = "--validation_prompt"
    owners |= {one.data.instance_prompt: "--instance_prompt" for one in run.concepts if one.data.instance_prompt}
    for one in run.instances:
        owners.setdefault(one.prompt, f"the prompt of {one.name}")
    return owners


def stream_of(loader: DataLoader[dict[str, Any]]) -> PhotoStream | None:
    """With `--seed_each_batch` the loader's sampler, as `build_loader` made it."""
    return loader.sampler if isinstance(loader.sampler, PhotoStream) else None


def remaining_batches(loader: Any, progress: Progress, stream: PhotoStream | None = None) -> Iterator[dict[str, Any]]:
    """The batches of the current epoch that have not been taken yet; of a stream, all that are left.

    The order of photos follows from a generator's state when an epoch begins: torch's own, or with
    several processes the one that Accelerate keeps in step. A resumed epoch is read again from there,
    so that workers draw what they drew; Accelerate reads one batch ahead of the training, so the
    batch that waits is read with the state that torch had then, and training goes on with its own.
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
            next(batches, None)  # with another batch size the epoch may be at its end
        torch.set_rng_state(left)
    while True:
        progress.fetch_rng = torch.get_rng_state()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch
