"""Data sets of the `datasets` library: copied bit for bit, once, and what is refused."""

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.training.data import dataset_copy
from tests.scene import scene
from tests.training.runs import train
from tests.training.small import configure, photos_of

pytestmark = pytest.mark.usefixtures("process_state")
SIZES = [(32, 32)]


def save_dataset(folder, photos):
    """Save a data set in the Hub's layout: a JPEG and a PNG photo, with masks and captions."""
    rows = {"picture": [str(path) for path in photos], "outline": [], "words": []}
    for number in range(len(photos)):
        _, disc = scene(40, 48, number)
        files.write_mask(disc, folder / "masks" / f"{number}.png")
        rows["outline"].append(str(folder / "masks" / f"{number}.png"))
        rows["words"].append(f"photo {number} of a sks dog")
    features = datasets.Features(
        {"picture": datasets.Image(), "outline": datasets.Image(), "words": datasets.Value("string")}
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "set" / "train.parquet")
    return folder / "set"


@pytest.fixture
def saved_dataset(tmp_path):
    """A saved data set, and its original photos."""
    folder = tmp_path / "stored"
    photos = [folder / "originals" / name for name in ("first.jpg", "second.png")]
    for number, path in enumerate(photos):
        files.write_picture(Image.fromarray(scene(40, 48, number)[0]), path)
    return save_dataset(folder, photos), photos


COLUMNS = {"image_column": "picture", "mask_column": "outline", "caption_column": "words"}


def dataset_config(tmp_path, name, **changes):
    data = {
        "instance_data_dir": None,
        "instance_prompt": None,
        "dataset_name": str(name),
        "cache_dir": str(tmp_path / "cache"),
    }
    output = {"output_dir": str(tmp_path / "output")}
    return configure("model", mask={"instance_mask_dir": None}, data=data | COLUMNS | changes, output=output)


def test_dataset_is_copied_bit_for_bit(saved_dataset, tmp_path, capfd):
    name, originals = saved_dataset
    config = dataset_config(tmp_path, name)
    capfd.readouterr()
    dataset_copy.copy(config)
    assert "Generating" not in capfd.readouterr().err  # the library's progress bar
    dataset_copy.copy(config)  # everything is already there
    found, left_out = photos_of(config, SIZES)
    assert not left_out
    assert [instance.photo.read_bytes() for instance in found] == [path.read_bytes() for path in originals]
    assert [instance.prompt for instance in found] == ["photo 0 of a sks dog", "photo 1 of a sks dog"]
    for number, instance in enumerate(found):
        np.testing.assert_array_equal(files.read_mask(instance.regions[0].mask), scene(40, 48, number)[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_column": "image"}, "--image_column image is not a column of .*; choose one of picture, outline"),
        ({"image_column": "words"}, "words in row 0 of .* is not a picture"),
        ({"caption_column": "picture"}, "picture in row 0 of .* not a caption"),
        ({"dataset_name": "no/such/folder"}, "data set no/such/folder cannot be loaded"),
    ],
)
def test_unsuitable_dataset_is_refused_in_one_line(saved_dataset, tmp_path, monkeypatch, changes, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message) as error:
        dataset_copy.copy(dataset_config(tmp_path, saved_dataset[0], **changes))
    assert len(str(error.value).splitlines()) == 1


def test_unfinished_copy_of_other_dataset_leaves_nothing(saved_dataset, tmp_path):
    folder = tmp_path / "output" / dataset_copy.COPY_FOLDER
    for number in range(5):
        files.write_picture(Image.new("RGB", (9, 9)), folder / "photos" / f"{number:05d}.webp")
        files.write_mask(np.ones((9, 9), bool), folder / "masks" / f"{number:05d}.png")
    dataset_copy.copy(dataset_config(tmp_path, saved_dataset[0]))
    assert sorted(path.name for path in (folder / "photos").iterdir() if path.suffix != ".txt") == [
        "00000.jpg",
        "00001.png",
    ]


def test_copy_of_other_dataset_in_output_is_refused(saved_dataset, tmp_path):
    dataset_copy.copy(dataset_config(tmp_path, saved_dataset[0]))
    with pytest.raises(UserError, match=r"holds another copy \(caption_column differ\)"):
        dataset_copy.copy(dataset_config(tmp_path, saved_dataset[0], caption_column=None, instance_prompt="a sks dog"))


def test_copy_of_since_changed_dataset_is_refused(saved_dataset, tmp_path):
    folder, originals = saved_dataset
    dataset_copy.copy(dataset_config(tmp_path, folder))
    save_dataset(folder.parent, originals[:1])
    with pytest.raises(UserError, match=r"holds another copy \(files differ\)"):
        dataset_copy.copy(dataset_config(tmp_path, folder))


def test_regions_come_from_columns_of_a_dataset(saved_dataset, tmp_path):
    """The second row has no mask of the cat."""
    folder, originals = saved_dataset
    dog, cat = (str(folder.parent / "masks" / f"{number}.png") for number in (0, 1))
    rows = {"image": [str(path) for path in originals], "a": [dog, cat], "b": [cat, None]}
    rows["text"] = ["a sks dog and a cat", "a sks dog"]
    features = datasets.Features({name: datasets.Image() for name in ("image", "a", "b")})
    features["text"] = datasets.Value("string")
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "several" / "train.parquet")
    changes = {"image_column": "image", "mask_column": None, "caption_column": "text"}
    config = dataset_config(tmp_path, tmp_path / "several", **changes, region_columns=["sks dog=a", "cat=b"])
    dataset_copy.copy(config)
    found, left_out = photos_of(config, SIZES)
    assert not left_out and [[region.phrase for region in photo.regions] for photo in found] == [
        ["cat", "sks dog"],
        ["sks dog"],
    ]
    masks = [files.read_mask(region.mask) for photo in found for region in photo.regions]
    discs = [scene(40, 48, number)[1] for number in (1, 0, 1)]
    assert all(map(np.array_equal, masks, discs))
    with pytest.raises(UserError, match=r"holds another copy \(region_columns differ\)"):
        dataset_copy.copy(dataset_config(tmp_path, tmp_path / "several", **changes, region_columns=["sks dog=a"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"region_columns": ["dog"]}, "--region_columns dog= is not WORDS=COLUMN"),
        ({"region_columns": ["../dog=outline"]}, "words that can name a folder"),
        ({"region_columns": ["dog=a", "dog=b"]}, "names a subject twice"),
        ({"region_columns": ["dog=a"], "mask_column": "outline"}, "masks come from one place"),
        ({"region_columns": ["dog=nowhere"]}, "--region_columns nowhere is not a column"),
    ],
)
def test_unsuitable_region_columns_are_refused(saved_dataset, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        dataset_copy.copy(dataset_config(tmp_path, saved_dataset[0], **{"mask_column": None} | changes))


def test_dataset_run_equals_run_on_its_photos(saved_dataset, tmp_path, flags):
    words = {key: value for key, value in flags.items() if not key.startswith("instance_")}
    assert train(words, dataset_name=saved_dataset[0], cache_dir=tmp_path / "cache", output_dir="one", **COLUMNS) == 0
    shutil.copytree("one/dataset", "local")
    local = {"instance_data_dir": "local/photos", "instance_mask_dir": "local/masks", "caption_extension": ".txt"}
    assert train(words, **local, output_dir="other") == 0
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (Path("one") / weights).read_bytes() == (Path("other") / weights).read_bytes()
