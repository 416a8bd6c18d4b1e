"""kohya's folders: photos in subfolders named REPEATS_WORDS, with masks in matching subfolders or a single folder."""

from collections import Counter
from pathlib import Path

import pytest
from accelerate import Accelerator
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.listing import PhotoFolder, repeated_folders
from persam_dreambooth.photos.manifest import read_manifest
from persam_dreambooth.training.data.class_images import check_class_folders, ensure_class_images
from persam_dreambooth.training.data.concepts import Concept, read_concepts
from persam_dreambooth.training.data.dataset import DreamBoothDataset
from persam_dreambooth.training.data.samples import FreshSamples
from tests.scene import scene
from tests.training.runs import train
from tests.training.small import configure, photos_of

pytestmark = pytest.mark.usefixtures("process_state")
SIZES = [(32, 32)]


def draw(folder, masks, names, seed=0):
    for number, name in enumerate(names):
        pixels, disc = scene(40, 48, seed + number)
        files.write_picture(Image.fromarray(pixels), folder / f"{name}.png")
        files.write_mask(disc, masks / f"{name}.png")


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Three photos in two kohya folders, with masks in folders of the same names."""
    monkeypatch.chdir(tmp_path)
    draw(Path("kl/10_sks dog"), Path("masks/10_sks dog"), ["a", "b"])
    draw(Path("kl/3_sks puppy"), Path("masks/3_sks puppy"), ["a"], seed=5)
    return tmp_path


def configured(masks="masks", **data):
    data = {"instance_data_dir": "kl", "instance_prompt": None} | data
    return configure("model", mask={"instance_mask_dir": masks}, data=data)


def test_only_kohya_names_are_repeat_folders(tmp_path):
    for name in ("10_sks dog", "2_a_b", "0_none", "old", "10_", "x_dog", "-1_dog", "9999999_dog"):
        (tmp_path / name).mkdir()
    (tmp_path / "5_file").touch()
    assert repeated_folders(tmp_path) == [
        PhotoFolder(tmp_path / "10_sks dog", 10, "sks dog"),
        PhotoFolder(tmp_path / "2_a_b", 2, "a_b"),
    ]
    assert repeated_folders(tmp_path / "nowhere") == []


@pytest.mark.usefixtures("album")
def test_photo_has_repeats_prompt_and_mask_of_its_folder():
    Path("kl/10_sks dog/b.txt").write_text("sks dog asleep")
    found, left_out = photos_of(configured(caption_extension=".txt"), SIZES)
    assert not left_out
    assert [(instance.name, instance.repeats, instance.prompt) for instance in found] == [
        ("10_sks dog/a.png", 10, "sks dog"),
        ("10_sks dog/b.png", 10, "sks dog asleep"),
        ("3_sks puppy/a.png", 3, "sks puppy"),
    ]
    assert [instance.source[1] for instance in found] == [(Path("masks") / instance.name,) for instance in found]
    assert {instance.prompt for instance in photos_of(configured(instance_prompt="a sks dog"), SIZES)[0]} == {
        "a sks dog"
    }


@pytest.mark.usefixtures("album")
def test_epoch_repeats_each_photo():
    config = configured()
    found, _ = photos_of(config, SIZES)
    prompts = {instance.prompt: {} for instance in found}
    dataset = DreamBoothDataset(found, FreshSamples(config.data), prompts)
    assert len(dataset) == 23
    shown = Counter(dataset[number].photo for number in range(len(dataset)))
    assert shown == {"10_sks dog/a.png": 10, "10_sks dog/b.png": 10, "3_sks puppy/a.png": 3}


@pytest.mark.usefixtures("album")
def test_masks_may_be_in_one_folder_if_names_are_unique():
    for number, photo in enumerate(sorted(Path("kl").rglob("*.png"))):
        photo.rename(photo.with_name(f"{number}.png"))
        files.write_mask(scene(40, 48, number)[1], Path("flat") / f"{number}.png")
    assert [instance.regions[0].mask.name for instance in photos_of(configured("flat"), SIZES)[0]] == [
        "0.png",
        "1.png",
        "2.png",
    ]
    Path("kl/10_sks dog/0.png").rename("kl/10_sks dog/2.png")
    with pytest.raises(UserError, match=r"10_sks dog/2\.png and 3_sks puppy/2\.png would share one mask of flat"):
        photos_of(configured("flat"), SIZES)


@pytest.mark.usefixtures("album")
def test_top_level_photos_take_precedence_and_others_are_named(caplog):
    draw(Path("kl"), Path("masks"), ["mine"])
    found, _ = photos_of(configured(instance_prompt="a sks dog"), SIZES)
    assert [instance.name for instance in found] == ["mine.png"]
    assert all(
        words in caplog.text
        for words in ("not read: 10_sks dog/ (a subfolder with 2 photos)", "3_sks puppy/ (a subfolder with 1 photo)")
    )


def test_kohya_folders_are_segmented_and_trained_on(flags, models, album, capsys):
    photo, mask = Path("kl/10_sks dog/a.png"), Path("masks/10_sks dog/a.png")
    reference = {"instance_mask_dir": None, "reference_image": photo, "reference_mask": mask, "sam": models / "sam"}
    changes = reference | {"instance_data_dir": "kl", "instance_prompt": None, "max_train_steps": 1}
    assert train(flags | changes, "--use_lora", mask_downsample="max", uncertain_photo_weight=1, report_to="none") == 0
    assert "photos: 3, 23 with repeats, 32 x 32 pixels" in capsys.readouterr().out
    entries = read_manifest(Path("output/manifest.jsonl"), own_files=False)
    assert [entry.photo for entry in entries] == [
        "../kl/10_sks dog/a.png",
        "../kl/10_sks dog/b.png",
        "../kl/3_sks puppy/a.png",
    ]
    assert [entry.source for entry in entries] == ["reference", "persam", "persam"]
    assert entries[2].mask == "segmentation/3_sks puppy/masks/a.png"


@pytest.mark.usefixtures("album")
def test_words_shared_by_all_folders_are_prompt():
    assert read_concepts(configured(caption_extension=".txt"))[0].prompt is None
    assert read_concepts(configured())[0].prompt is None  # the folders' words differ
    Path("kl/3_sks puppy").rename("kl/3_sks dog")
    assert read_concepts(configured())[0].prompt == "sks dog"
    assert read_concepts(configured(instance_prompt="a sks dog"))[0].prompt == "a sks dog"


def test_class_images_may_be_in_kohya_folders(models, album):
    draw(Path("reg/1_dog"), Path("unused"), ["a", "b"])
    prior = {"with_prior_preservation": True, "class_data_dir": "reg", "class_prompt": "a dog", "num_class_images": 2}
    config = configure(models / "stable-diffusion", data=prior)
    assert ensure_class_images(Concept.of(config), config, Accelerator()) == [
        Path("reg/1_dog/a.png"),
        Path("reg/1_dog/b.png"),
    ]
    assert [path.name for path in Path("reg").iterdir()] == ["1_dog"]


@pytest.mark.usefixtures("album")
def test_repeat_folder_cannot_hold_class_images():
    prior = {"with_prior_preservation": True, "class_data_dir": "kl/10_sks dog", "class_prompt": "a dog"}
    with pytest.raises(UserError, match="holds a subject's photos"):
        check_class_folders([Concept.of(configured(**prior))])
