"""Samples: cached ones equal fresh ones, stale ones are never used, and training is unaffected."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import LORA_NAME
from persam_dreambooth.photos import files
from persam_dreambooth.torch_utils import TensorCache
from persam_dreambooth.training.data.dataset import DreamBoothDataset, InstancePhoto, Region, collate
from persam_dreambooth.training.data.samples import EncodedSamples, FreshSamples
from random_models import random_stable_diffusion
from tests.scene import scene
from tests.training.runs import train
from tests.training.small import make

SIZE = (32, 32)


@pytest.fixture
def source(tmp_path):
    pixels, disc = scene(40, 70, 0)
    files.write_picture(Image.fromarray(pixels), tmp_path / "photo.png")
    files.write_mask(disc, tmp_path / "mask.png")
    return tmp_path / "photo.png", (tmp_path / "mask.png",), SIZE, None


def family_for(models, folder=None, **data):
    data = {"resolution": 32, "training_cache": str(folder) if folder else None} | data
    return make(models / "stable-diffusion", data=data, model={"pre_compute_text_embeddings": True})


@pytest.mark.parametrize("on_disk", [False, True])
def test_cached_sample_equals_fresh_one(models, source, tmp_path, on_disk):
    config, family = family_for(models, tmp_path / "cache" if on_disk else None, center_crop=True)
    kept = EncodedSamples(family, FreshSamples(config.data), [source])(*source)
    fresh = FreshSamples(config.data)(*source)
    assert torch.equal(kept["mask"], fresh["mask"]) and torch.equal(kept["crop"], fresh["crop"])
    assert torch.equal(kept["moments"], family.encode_pixels(fresh["pixels"][None])[0])
    torch.manual_seed(3)
    latents = family.sample_latents(kept["moments"][None])
    torch.manual_seed(3)
    expected = family.vae.encode(fresh["pixels"][None]).latent_dist.sample() * family.vae.config.scaling_factor
    assert torch.equal(latents, expected)


def test_each_photo_has_requested_number_of_crops(models, source):
    config, family = family_for(models, random_flip=True, cached_crops=3)
    samples = EncodedSamples(family, FreshSamples(config.data), [source])
    torch.manual_seed(0)
    seen = [samples(*source) for _ in range(40)]
    # Two of the crops may coincide.
    assert 1 < len({sample["crop"].numpy().tobytes() + sample["mask"].numpy().tobytes() for sample in seen}) <= 3
    assert len({sample["moments"].data_ptr() for sample in seen}) == 3
    for sample in seen[:8]:  # mask and moments belong to the same crop
        assert sample["mask"].sum() == seen[0]["mask"].sum()  # every crop keeps the subject


def keys(folder):
    return {path.name for path in folder.rglob("*.safetensors")}


def test_stale_samples_are_not_used(models, source, tmp_path):
    folder = tmp_path / "cache"

    def encode(**data):
        before = keys(folder)
        config, family = family_for(models, folder, **({"center_crop": True} | data))
        EncodedSamples(family, FreshSamples(config.data), [source])
        return len(keys(folder) - before)

    assert encode() == 1
    assert encode() == 0  # everything is cached
    assert encode(image_interpolation_mode="bicubic") == 1
    assert encode(center_crop=False, cached_crops=2) == 2
    files.write_picture(Image.new("RGB", (40, 40), "red"), tmp_path / "behind" / "0.png")
    behind = {"background_images": str(tmp_path / "behind"), "cached_crops": 1}
    assert encode(**behind) == 1
    files.write_picture(Image.new("RGB", (40, 40), "blue"), tmp_path / "behind" / "0.png")
    assert encode(**behind) == 1
    photo, (mask,), *_ = source
    files.write_mask(~files.read_mask(mask), mask)
    assert encode() == 1
    files.write_picture(Image.fromarray(scene(40, 70, 5)[0]), photo)
    assert encode() == 1
    config, family = family_for(models, folder, center_crop=True)
    with torch.no_grad():
        next(family.vae.parameters()).add_(0.1)
    before = keys(folder)
    EncodedSamples(family, FreshSamples(config.data), [source])
    assert len(keys(folder) - before) == 1


def test_damaged_file_is_recreated(models, source, tmp_path):
    config, family = family_for(models, tmp_path / "cache", center_crop=True)
    expected = EncodedSamples(family, FreshSamples(config.data), [source])(*source)
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    again = EncodedSamples(family, FreshSamples(config.data), [source])(*source)
    assert torch.equal(again["moments"], expected["moments"])
    assert load_file(path)["moments"].shape == expected["moments"].shape


def test_vanished_cache_is_reported_in_one_line(models, source, tmp_path):
    config, family = family_for(models, tmp_path / "cache", center_crop=True)
    samples = EncodedSamples(family, FreshSamples(config.data), [source])
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError, match="--training_cache is missing or damaged"):
        samples(*source)


def test_memory_and_disk_caches_agree(tmp_path):
    tensors = {"a": torch.rand(3, 4), "b": torch.arange(5, dtype=torch.uint8)}
    for cache in (TensorCache(None), TensorCache(tmp_path / "cache")):
        assert cache.get("ab12") is None
        cache.put("ab12", tensors)
        got = cache.get("ab12")
        assert set(got) == set(tensors) and all(torch.equal(got[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("switches", [(), ("--use_lora", "--pre_compute_text_embeddings")])
def test_cached_run_equals_uncached_run(flags, switches):
    words = flags | {"train_batch_size": 1, "learning_rate": 1e-4}
    assert train(words, "--center_crop", *switches, output_dir="fresh") == 0
    for name in ("cached", "again"):
        assert (
            train(words, "--center_crop", "--cache_latents", *switches, output_dir=name, training_cache="cache") == 0
        )
    made = [path.stat().st_mtime_ns for path in Path("cache").rglob("*.safetensors")]
    assert made and max(made) < Path("again/training_config.yaml").stat().st_mtime_ns
    name = LORA_NAME if "--use_lora" in switches else "unet/diffusion_pytorch_model.safetensors"
    fresh, first, second = (load_file(Path(folder) / name) for folder in ("fresh", "cached", "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    for key, value in fresh.items():
        torch.testing.assert_close(first[key], value, rtol=0, atol=1e-6)


def test_class_images_are_cached(models, source):
    config, family = family_for(models, center_crop=True)
    photo, (mask,), *_ = source
    prompts = {text: family.tokenize(text) for text in ("a sks dog", "a dog")}
    instances, read = (
        [InstancePhoto(photo, (Region(mask),), (32, 32), (48, 64), "a sks dog")],
        FreshSamples(config.data),
    )
    datasets = [DreamBoothDataset(instances, read, prompts, [[photo]], ["a dog"]) for _ in range(2)]
    datasets[1].read = EncodedSamples(family, read, datasets[1].sources())
    fresh, kept = (collate([dataset[0]]) for dataset in datasets)
    torch.testing.assert_close(kept.moments, family.encode_pixels(fresh.pixels), rtol=0, atol=1e-5)
    assert kept.pixels is None and all(
        torch.equal(getattr(kept, name), getattr(fresh, name)) for name in ("mask", "crop", "weight")
    )


def test_resume_repeats_random_crops_from_cache(flags):
    switches = ("--cache_latents", "--random_flip", "--use_lora")
    words = flags | {"cached_crops": 3, "max_train_steps": 6, "train_batch_size": 1}
    assert train(words, *switches, output_dir="whole") == 0
    assert train(words, *switches, output_dir="parts", max_train_steps=4, checkpointing_steps=2) == 0
    shutil.rmtree("parts/checkpoint-4")
    resumed = {"max_train_steps": 6, "resume_from_checkpoint": "latest"}
    assert train(words, *switches, output_dir="parts", **resumed) == 0
    whole, parts = (load_file(Path(folder) / LORA_NAME) for folder in ("whole", "parts"))
    assert all(np.array_equal(whole[key], parts[key]) for key in whole)


def test_sample_key_depends_on_autoencoder(models):
    _, family = family_for(models)
    other = random_stable_diffusion(seed=1)
    assert family.checksum("vae") != family.checksum("text")
    before = family.checksum("vae")
    family.vae.load_state_dict(other.vae.state_dict())
    assert family.checksum("vae") != before
