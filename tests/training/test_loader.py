"""The loader: prompts prepared once, draws that depend on their seeds only, and epochs that are resumed mid-way."""

import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from persam_dreambooth.photos import files
from persam_dreambooth.training.config import DataConfig
from persam_dreambooth.training.data.dataset import DreamBoothDataset, InstancePhoto
from persam_dreambooth.training.data.samples import FreshSamples
from persam_dreambooth.training.loader import PhotoStream, SeededDataset, prepare_prompts, remaining_batches, seed_of
from persam_dreambooth.training.runtime.checkpoint import Progress
from tests.scene import scene
from tests.training.data.test_samples import family_for, keys
from tests.training.small import make


def test_prompt_key_depends_on_tokens_and_weights(models, tmp_path):
    def embeds(text, change=0.0):
        config, family = family_for(models, tmp_path / "cache")
        with torch.no_grad():
            next(family.text_encoder.parameters()).add_(change)
        (encoded,) = prepare_prompts(family, config, [text, text]).values()
        assert family.text_encoder is None
        return encoded["embeds"]

    first = embeds("a sks dog")
    assert len(keys(tmp_path / "cache")) == 1
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    written = path.stat().st_mtime_ns
    assert torch.equal(embeds("a sks dog"), first)
    assert path.stat().st_mtime_ns == written
    assert not torch.equal(embeds("a dog"), first)
    assert not torch.equal(embeds("a sks dog", change=0.5), first)
    assert len(keys(tmp_path / "cache")) == 3


def test_prompt_key_depends_on_precision(pipelines, tmp_path):
    """Lumina's text encoder is always in bf16, but its output is not."""
    model = {"pre_compute_text_embeddings": True}
    for dtype in (torch.float16, torch.float32):
        config, family = make(pipelines / "lumina2", model, data={"training_cache": str(tmp_path / "cache")})
        family.place(torch.device("cpu"), dtype)
        (encoded,) = prepare_prompts(family, config, ["a sks dog"]).values()
        assert encoded["embeds"].dtype == dtype


def test_stream_shuffles_and_visits_every_photo_once_per_epoch():
    stream = PhotoStream(5, batch=2, seed=0, process=0, processes=1)
    numbers = iter(stream)
    epochs = [[next(numbers) for _ in range(5)] for _ in range(4)]
    orders = [[index for index, _ in epoch] for epoch in epochs]
    assert all(sorted(order) == list(range(5)) for order in orders) and len(set(map(tuple, orders))) > 1
    seeds = [seed for epoch in epochs for _, seed in epoch]
    assert len(set(seeds)) == len(seeds)
    stream.skip(3)
    assert next(iter(stream)) == epochs[1][1]  # the seventh photo


def test_seeds_differ_by_purpose_and_number_and_never_change():
    numbers = [(seed, purpose, number) for seed in range(4) for purpose in range(3) for number in range(50)]
    assert len({seed_of(*own) for own in numbers}) == len(numbers)
    assert seed_of(0, 1, 2) == 3071860871404845570  # of earlier runs, which can be resumed


def test_stream_is_shared_by_processes():
    """Batch n of process p is that of one process which sees all batches in turn."""
    alone, second = PhotoStream(5, 2, 0, 0, 1), PhotoStream(5, 2, 0, process=1, processes=3)
    draws = []
    for stream, number in ((alone, 7), (second, 2), (second, 3)):
        stream.seed_batch(number)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1] != draws[2]
    second.skip(2)
    alone.skip(6)
    assert next(iter(second)) == next(iter(alone)) and len(second) == 5


def test_seeded_item_depends_on_its_key_only(tmp_path):
    pixels, _ = scene(40, 70)
    files.write_picture(Image.fromarray(pixels), tmp_path / "a.png")
    photo = InstancePhoto(tmp_path / "a.png", (), (32, 32), (40, 70))
    read = FreshSamples(DataConfig(instance_data_dir="photos", instance_prompt="a dog", resolution=32))
    dataset = SeededDataset(DreamBoothDataset([photo], read, {"": {}}))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, *others = (dataset[0, seed].sample["crop"].tolist() for seed in (1, 1, 2, 3, 4))
    assert first == again and len(dataset) == 1
    assert any(other != first for other in others)
    assert torch.equal(torch.get_rng_state(), before)


class Noisy(Dataset):
    """Items that draw a random number, as crops do."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index, torch.rand(1).item()


def test_resumed_epoch_continues_with_the_same_photos_and_draws():
    def learn(progress, count):
        """Take batches; return each with a random number that training draws."""
        taken = []
        loader = Accelerator().prepare(DataLoader(Noisy(), batch_size=1, shuffle=True))  # reads one batch ahead
        for batch in remaining_batches(loader, progress):
            progress.batches += 1
            taken.append(([value.item() for value in batch], torch.rand(1).item()))
            if len(taken) == count:
                return taken
        return taken

    torch.manual_seed(0)
    whole = learn(Progress(), 6)
    assert sorted(index for (index, _), _ in whole) == list(range(6))
    torch.manual_seed(0)
    progress = Progress()
    assert learn(progress, 4) == whole[:4]
    left = torch.get_rng_state()
    torch.manual_seed(99)  # of another process
    torch.set_rng_state(left)
    assert learn(progress, 6) == whole[4:]
    assert learn(progress, 6) == []  # the epoch is over
