"""The data set: photo and mask stay aligned, crops match diffusers' scripts, batches are in order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.training.config import DataConfig
from persam_dreambooth.training.data.crops import cut_photo, draw_crop
from persam_dreambooth.training.data.dataset import DreamBoothDataset, InstancePhoto, Region, collate
from persam_dreambooth.training.data.samples import FreshSamples
from tests.training.data.test_concepts import configured, draw
from tests.training.runs import train
from tests.training.small import configure

PROMPT = {"input_ids": torch.zeros(1, 4, dtype=torch.long)}
CLASS_PROMPT = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
PROMPTS = {"": PROMPT, "a dog": CLASS_PROMPT}


def config(**changes):
    return DataConfig(instance_data_dir="photos", instance_prompt="a sks dog", resolution=32, **changes)


@pytest.fixture
def photo(tmp_path):
    """A photo that equals its mask: white blobs on black, not square, at twice the training resolution."""
    random = np.random.default_rng(0)
    blobs = np.kron(random.random((8, 12)) < 0.5, np.ones((8, 8), dtype=bool))
    Image.fromarray(np.repeat(blobs[..., None] * np.uint8(255), 3, axis=2)).save(tmp_path / "photo.png")
    Image.fromarray(blobs).save(tmp_path / "mask.png")
    return InstancePhoto(tmp_path / "photo.png", (Region(tmp_path / "mask.png"),), (32, 32), (64, 96))


@pytest.mark.parametrize("changes", [{}, {"center_crop": True}, {"random_flip": True}])
def test_photo_and_mask_stay_aligned(photo, changes):
    torch.manual_seed(0)
    dataset = DreamBoothDataset([photo], FreshSamples(config(**changes)), PROMPTS)
    seen = set()
    for _ in range(12):
        item = dataset[0]
        assert item.sample["pixels"].shape == (3, 32, 32) and item.sample["mask"].shape == (1, 32, 32)
        bright, mask = item.sample["pixels"][0] > 0, item.sample["mask"][0] > 0
        assert (bright == mask).float().mean() > 0.98  # edges are smoothed in the photo, but not in the mask
        seen.add(mask.numpy().tobytes())
    assert len(seen) == 1 if changes.get("center_crop") else len(seen) > 1


def test_flips_happen_half_of_time(photo):
    torch.manual_seed(0)
    dataset = DreamBoothDataset([photo], FreshSamples(config(random_flip=True, center_crop=True)), PROMPTS)
    straight = DreamBoothDataset([photo], FreshSamples(config(center_crop=True)), PROMPTS)[0].sample["mask"]
    flips = sum(bool((dataset[0].sample["mask"] != straight).any()) for _ in range(60))
    assert 18 <= flips <= 42


def test_photo_matches_diffusers_script(photo):
    script = v1.Compose([v1.Resize(32), v1.RandomCrop(32), v1.ToTensor(), v1.Normalize([0.5], [0.5])])
    image = Image.open(photo.photo)
    for seed in range(5):
        torch.manual_seed(seed)
        theirs = script(image), torch.rand(1)
        torch.manual_seed(seed)
        ours = cut_photo(image, draw_crop((image.height, image.width), (32, 32), config())), torch.rand(1)
        torch.testing.assert_close(ours[0], theirs[0], atol=1e-6, rtol=0)
        assert torch.equal(ours[1], theirs[1])  # the same number of random draws


@pytest.mark.parametrize("changes", [{}, {"center_crop": True}, {"random_flip": True}])
def test_crop_position_matches_pixels(tmp_path, changes):
    """Crop again from the resized photo, mirrored first if the crop is, like diffusers' SDXL script."""
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (48, 70, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    photo = Image.open(tmp_path / "photo.png")
    instances = [InstancePhoto(tmp_path / "photo.png", (), (32, 32), (48, 70))]
    dataset = DreamBoothDataset(instances, FreshSamples(config(**changes)), PROMPTS)
    resized, mirrored_too = v1.Resize(32)(photo), []
    torch.manual_seed(0)
    for _ in range(12):
        item = dataset[0]
        height, width, top, left, *size = item.sample["crop"].tolist()
        assert item.sample["crop"].dtype == torch.int64 and (height, width, size) == (48, 70, [32, 32])
        assert top == 0 and 0 <= left <= resized.width - 32
        cuts = [
            np.asarray(picture.crop((left, top, left + 32, top + 32))).transpose(2, 0, 1) / 127.5 - 1
            for picture in (resized, resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        ]
        same = [np.allclose(item.sample["pixels"], cut, atol=1e-5) for cut in cuts]
        assert sum(same) == 1
        mirrored_too.append(same[1])
    assert any(mirrored_too) == bool(changes.get("random_flip")) and not all(mirrored_too)


def test_batches_are_instances_then_class_images(photo, tmp_path):
    for number, level in enumerate((0, 255)):
        Image.new("RGB", (40, 64), (level,) * 3).save(tmp_path / f"class-{number}.png")
    classes = sorted(tmp_path.glob("class-*.png"))
    dataset = DreamBoothDataset([photo], FreshSamples(config()), PROMPTS, [classes], ["a dog"])
    assert len(dataset) == 2
    batch = collate([dataset[0], dataset[1]])
    assert batch.pixels.shape == (4, 3, 32, 32) and batch.mask.shape == (2, 1, 32, 32)
    assert batch.crop[:, :2].tolist() == [[64, 96], [64, 96], [64, 40], [64, 40]]  # each sample's own
    assert batch.pixels[2].unique().tolist() == [-1] and batch.pixels[3].unique().tolist() == [1]
    assert batch.prompt["input_ids"][:, 0].tolist() == [0, 0, 1, 1]
    assert batch.class_prompt["input_ids"].shape == (2, 4)


def test_class_prompt_needs_no_class_images(photo):
    dataset = DreamBoothDataset([photo], FreshSamples(config()), PROMPTS, class_prompts=["a dog"])
    batch = collate([dataset[0], dataset[0]])
    assert batch.pixels.shape == (2, 3, 32, 32)
    assert batch.prompt["input_ids"][:, 0].tolist() == [0, 0]
    assert batch.class_prompt["input_ids"][:, 0].tolist() == [1, 1]
    assert collate([DreamBoothDataset([photo], FreshSamples(config()), PROMPTS)[0]]).class_prompt is None


def test_missing_mask_means_whole_photo(photo):
    item = DreamBoothDataset([replace(photo, regions=())], FreshSamples(config()), PROMPTS)[0]
    assert item.sample["mask"].unique().tolist() == [1]


def test_background_is_replaced_behind_subject(photo, tmp_path):
    for number, colour in enumerate(("red", "blue")):
        (tmp_path / "behind").mkdir(exist_ok=True)
        Image.new("RGB", (50, 40), colour).save(tmp_path / "behind" / f"{number}.png")
    plain = DreamBoothDataset([photo], FreshSamples(config(center_crop=True)), PROMPTS, [[photo.photo]], ["a dog"])
    settings = config(center_crop=True, background_images=str(tmp_path / "behind"))
    mixed = DreamBoothDataset([photo], FreshSamples(settings), PROMPTS, [[photo.photo]], ["a dog"])
    torch.manual_seed(0)
    colours, expected = set(), plain[0]
    for _ in range(10):
        item = mixed[0]
        inside = item.sample["mask"].expand(3, -1, -1) > 0
        assert torch.equal(item.sample["mask"], expected.sample["mask"])
        assert torch.equal(item.sample["pixels"][inside], expected.sample["pixels"][inside])
        assert torch.equal(item.class_sample["pixels"], expected.class_sample["pixels"])
        outside = item.sample["pixels"][:, item.sample["mask"][0] == 0]
        assert len(outside.unique(dim=1)[0]) == 1
        colours.add(tuple(outside[:, 0].tolist()))
    assert colours == {(1, -1, -1), (-1, -1, 1)}


@pytest.mark.parametrize("switches", [(), ("--cache_latents",)], ids=["fresh", "cached"])
def test_backgrounds_folder_is_listed_once_per_run(switches, flags, monkeypatch):
    Path("behind").mkdir()
    Image.new("RGB", (40, 40), "red").save("behind/0.png")
    looked, list_photos = [], files.list_photos
    monkeypatch.setattr(files, "list_photos", lambda folder: looked.append(folder.name) or list_photos(folder))
    assert train(flags, "--use_lora", *switches, background_images="behind", max_train_steps=1) == 0
    assert looked.count("behind") == 1


def test_empty_backgrounds_folder_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"--background_images .* is not a folder with pictures"):
        FreshSamples(config(background_images=str(tmp_path)))
    with pytest.raises(UserError, match="--background_images needs masks"):
        settings = {"background_images": str(tmp_path)}
        configure("model", mask={"masked_loss": False, "instance_mask_dir": None}, data=settings)


def test_all_class_images_of_all_subjects_are_used(tmp_path):
    draw(tmp_path, ["a", "b", "c", *(f"{kind}{number}" for kind in "xy" for number in range(4))])
    photos = tmp_path / "photos"
    concepts = {"a": 0, "b": 0, "c": 1}
    instances = [
        InstancePhoto(photos / f"{name}.png", (), (32, 32), (40, 48), "a sks dog", concept=n)
        for name, n in concepts.items()
    ]
    images = [sorted(photos.glob(f"{kind}*.png")) for kind in "xy"]
    read = FreshSamples(configured(tmp_path, resolution=32).data)
    prompts = {prompt: {"ids": torch.full((1, 2), n)} for n, prompt in enumerate(["a sks dog", "a dog", "a cat"])}
    dataset = DreamBoothDataset(instances, read, prompts, images, ["a dog", "a cat"])
    assert len(dataset) == 12
    used = [(index % 3, dataset._class_image(index)) for index in range(len(dataset))]
    assert {path for place, path in used if place < 2} == set(images[0])
    assert {path for place, path in used if place == 2} == set(images[1])
    assert [dataset[index].class_prompt["ids"][0, 0].item() for index in range(3)] == [1, 1, 2]
