"""kohya's folders: photos in subfolders named REPEATS_WORDS, their masks likewise or all in one folder."""

from collections import Counter
from pathlib import Path

import pytest
from accelerate import Accelerator, PartialState
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import read_manifest
from persam_dreambooth.photos.repeated import PhotoFolder, repeated_folders
from persam_dreambooth.training.data.class_images import check_class_folders, ensure_class_images
from persam_dreambooth.training.data.concepts import read_concepts
from persam_dreambooth.training.data.dataset import DreamBoothDataset
from persam_dreambooth.training.data.instances import find_instances
from persam_dreambooth.training.data.samples import FreshSamples
from tests.scene import scene
from tests.training.runs import train
from tests.training.small import configure

SIZES = [(32, 32)]


@pytest.fixture(autouse=True)
def state():
    PartialState()  # which the warnings ask whether this process speaks


def draw(folder, masks, names, seed=0):
    for number, name in enumerate(names):
        pixels, disc = scene(40, 48, seed + number)
        files.write_picture(Image.fromarray(pixels), folder / f"{name}.png")
        files.write_mask(disc, masks / f"{name}.png")


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Three photos in two of kohya's folders, with their masks in folders of the same names."""
    monkeypatch.chdir(tmp_path)
    draw(Path("kl/10_sks dog"), Path("masks/10_sks dog"), ["a", "b"])
    draw(Path("kl/3_sks puppy"), Path("masks/3_sks puppy"), ["a"], seed=5)
    return tmp_path


def given(masks="masks", **data):
    data = {"instance_data_dir": "kl", "instance_prompt": None} | data
    return configure("model", mask={"instance_mask_dir": masks}, data=data)


def test_only_names_of_kohyas_kind_are_folders_of_repeats(tmp_path):
    for name in ("10_sks dog", "2_a_b", "0_none", "old", "10_", "x_dog", "-1_dog", "9999999_dog"):
        (tmp_path / name).mkdir()
    (tmp_path / "5_file").touch()
    assert repeated_folders(tmp_path) == [
        PhotoFolder(tmp_path / "10_sks dog", 10, "sks dog"),
        PhotoFolder(tmp_path / "2_a_b", 2, "a_b"),
    ]
    assert repeated_folders(tmp_path / "nowhere") == []


@pytest.mark.usefixtures("album")
def test_each_photo_has_the_repeats_prompt_and_mask_of_its_folder():
    Path("kl/10_sks dog/b.txt").write_text("sks dog asleep")
    found, left_out = find_instances(given(caption_extension=".txt"), SIZES)
    assert not left_out
    assert [(instance.name, instance.repeats, instance.prompt) for instance in found] == [
        ("10_sks dog/a.png", 10, "sks dog"),
        ("10_sks dog/b.png", 10, "sks dog asleep"),
        ("3_sks puppy/a.png", 3, "sks puppy"),
    ]
    assert [instance.mask for instance in found] == [Path("masks") / instance.name for instance in found]
    assert {instance.prompt for instance in find_instances(given(instance_prompt="a sks dog"), SIZES)[0]} == {
        "a sks dog"
    }


@pytest.mark.usefixtures("album")
def test_an_epoch_shows_each_photo_as_often_as_its_folder_says():
    config = given()
    found, _ = find_instances(config, SIZES)
    prompts = {instance.prompt: {} for instance in found}
    dataset = DreamBoothDataset(found, FreshSamples(config.data), prompts)
    assert len(dataset) == 23
    shown = Counter(dataset[number]["photo"] for number in range(len(dataset)))
    assert shown == {"10_sks dog/a.png": 10, "10_sks dog/b.png": 10, "3_sks puppy/a.png": 3}


@pytest.mark.usefixtures("album")
def test_masks_may_lie_in_one_folder_where_no_two_photos_share_one():
    for number, photo in enumerate(sorted(Path("kl").rglob("*.png"))):
        photo.rename(photo.with_name(f"{number}.png"))
        files.write_mask(scene(40, 48, number)[1], Path("flat") / f"{number}.png")
    assert [instance.mask.name for instance in find_instances(given("flat"), SIZES)[0]] == ["0.png", "1.png", "2.png"]
    Path("kl/10_sks dog/0.png").rename("kl/10_sks dog/2.png")
    with pytest.raises(UserError, match=r"10_sks dog/2\.png and 3_sks puppy/2\.png would share one mask of flat"):
        find_instances(given("flat"), SIZES)


@pytest.mark.usefixtures("album")
def test_photos_in_the_folder_itself_are_what_is_meant_and_the_others_are_named(caplog):
    draw(Path("kl"), Path("masks"), ["mine"])
    found, _ = find_instances(given(instance_prompt="a sks dog"), SIZES)
    assert [instance.name for instance in found] == ["mine.png"]
    assert all(
        words in caplog.text
        for words in ("not read: 10_sks dog/ (a subfolder with 2 photos)", "3_sks puppy/ (a subfolder with 1 photo)")
    )


def test_kohyas_folders_are_segmented_and_trained_on(flags, models, album, capsys):
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
def test_words_that_all_folders_share_are_the_subjects_prompt():
    assert read_concepts(given(caption_extension=".txt"))[0].data.instance_prompt is None
    assert read_concepts(given())[0].data.instance_prompt is None  # two folders say two things
    Path("kl/3_sks puppy").rename("kl/3_sks dog")
    assert read_concepts(given())[0].data.instance_prompt == "sks dog"
    assert read_concepts(given(instance_prompt="a sks dog"))[0].data.instance_prompt == "a sks dog"


def test_class_images_lie_in_kohyas_folders_too(models, album):
    draw(Path("reg/1_dog"), Path("unused"), ["a", "b"])
    prior = {"with_prior_preservation": True, "class_data_dir": "reg", "class_prompt": "a dog", "num_class_images": 2}
    config = configure(models / "stable-diffusion", data=prior)
    assert ensure_class_images(config, Accelerator()) == [Path("reg/1_dog/a.png"), Path("reg/1_dog/b.png")]
    assert [path.name for path in Path("reg").iterdir()] == ["1_dog"]


@pytest.mark.usefixtures("album")
def test_a_folder_of_repeats_is_no_folder_for_class_images():
    prior = {"with_prior_preservation": True, "class_data_dir": "kl/10_sks dog", "class_prompt": "a dog"}
    with pytest.raises(UserError, match="holds a subject's photos"):
        check_class_folders([given(**prior)])
