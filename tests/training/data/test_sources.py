"""Sources of photos: captions, several subjects, data sets, and photo weights."""

import json
import os
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.training.data import dataset_copy
from persam_dreambooth.training.data.concepts import read_concepts
from persam_dreambooth.training.data.dataset import DreamBoothDataset, InstancePhoto
from persam_dreambooth.training.data.instances import find_instances
from persam_dreambooth.training.data.samples import FreshSamples
from persam_dreambooth.training.objective import training_loss
from tests.scene import scene
from tests.training.runs import train
from tests.training.small import batch_for, configure, make, photos_of

pytestmark = pytest.mark.usefixtures("process_state")
PROMPTS = {prompt: {"ids": torch.full((1, 2), n)} for n, prompt in enumerate(["a sks dog", "a dog", "a cat"])}
SIZES = [(32, 32)]


def draw(folder, names, seed=0):
    """Write photos and masks of the given names."""
    for number, name in enumerate(names):
        pixels, disc = scene(40, 48, seed + number)
        files.write_picture(Image.fromarray(pixels), folder / "photos" / f"{name}.png")
        files.write_mask(disc, folder / "masks" / f"{name}.png")


def configured(folder, **data):
    return configure("model", mask={"instance_mask_dir": str(folder / "masks")}, data=data)


def test_captions_are_prompts(tmp_path):
    draw(tmp_path, ["a", "b", "c"])
    (tmp_path / "photos" / "a.txt").write_text("\ufeffa sks dog\n on a Käsebrett \n", encoding="utf-8")
    (tmp_path / "photos" / "c.txt").write_text(" \n")
    data = {"instance_data_dir": str(tmp_path / "photos")}
    found, _ = photos_of(configured(tmp_path, caption_extension=".txt", **data), SIZES)
    assert [instance.prompt for instance in found] == ["a sks dog on a Käsebrett", "a sks dog", "a sks dog"]
    assert {instance.prompt for instance in photos_of(configured(tmp_path, **data), SIZES)[0]} == {"a sks dog"}
    with pytest.raises(UserError, match=r"b\.png has no caption .*b\.txt; .*--instance_prompt"):
        photos_of(configured(tmp_path, caption_extension=".txt", instance_prompt=None, **data), SIZES)


def test_each_subject_has_own_photos_masks_and_prompts(tmp_path):
    entries = []
    for number, (name, kind) in enumerate({"rex": "dog", "mini": "cat"}.items()):
        draw(tmp_path / name, "ab"[: number + 1], seed=10 * number)
        shutil.move(tmp_path / name / "photos", tmp_path / name / name)
        entries.append(
            {
                "instance_data_dir": str(tmp_path / name / name),
                "instance_mask_dir": str(tmp_path / name / "masks"),
                "instance_prompt": f"a sks {kind}",
                "class_prompt": f"a {kind}",
            }
        )
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps(entries))
    config = configure("model", data={"concepts_list": str(path), "instance_data_dir": None})
    found = [find_instances(concept, config, SIZES).instances for concept in read_concepts(config)]
    assert [[instance.prompt for instance in its] for its in found] == [["a sks dog"], ["a sks cat"] * 2]
    assert [concept.class_prompt for concept in read_concepts(config)] == ["a dog", "a cat"]


@pytest.mark.parametrize("prior", [False, True])
def test_concepts_class_images_among_its_photos_are_not_reported_as_unread(tmp_path, prior, caplog):
    draw(tmp_path, ["a"])
    files.write_picture(Image.new("RGB", (40, 40)), tmp_path / "photos" / "dogs" / "b.png")
    entry = {"instance_data_dir": "photos", "instance_mask_dir": "masks", "instance_prompt": "a sks dog"}
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps([entry | {"class_data_dir": "photos/dogs", "class_prompt": "a dog"}]))
    data = {"concepts_list": str(path), "instance_data_dir": None, "with_prior_preservation": prior}
    found = find_instances(*read_concepts(configure("model", data=data)), configure("model", data=data), SIZES)
    assert [entry.error for entry in found.manifest] == [None] and not caplog.text


def test_captions_with_other_extension_cause_warning(tmp_path, caplog):
    draw(tmp_path, ["a"])
    (tmp_path / "photos" / "a.txt").write_text("a sks dog on a table")
    for ending, warned in ((".txt", False), (".text", True)):
        photos_of(configured(tmp_path, instance_data_dir=str(tmp_path / "photos"), caption_extension=ending), SIZES)
        assert ("has a caption that ends in .text" in caplog.text) == warned


def test_concepts_list_is_read_from_any_folder(tmp_path, monkeypatch):
    """Its paths are relative to the working folder, like those of flags, or else to the list's folder."""
    draw(tmp_path, ["a"])
    path = tmp_path / "concepts.json"
    path.write_text(
        json.dumps([{"instance_data_dir": "photos", "instance_mask_dir": "masks", "class_data_dir": "new"}])
    )
    for folder in (tmp_path, tmp_path / "photos"):
        monkeypatch.chdir(folder)
        config = configure("model", data={"concepts_list": str(path), "instance_data_dir": None})
        (concept,), ((photo,), _) = read_concepts(config), photos_of(config, SIZES)
        assert photo.photo.samefile(tmp_path / "photos" / "a.png") and concept.class_folder == Path("new")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[", "is not readable YAML"),
        ([], "must be a list of entries"),
        ({"instance_data_dir": "a"}, "must be a list of entries"),
        ([{"instance_dir": "a"}], "entry 1 of .* has an unknown key 'instance_dir'; known: instance_data_dir"),
        ([{"instance_data_dir": 3}], "entry 1 of .*: instance_data_dir must be text, not 3"),
        ([{"instance_data_dir": "a"}, {"instance_prompt": "b"}], "entry 2 of .*: --instance_data_dir is missing"),
        ([{"instance_data_dir": "a/photos"}, {"instance_data_dir": "b/photos"}], "photo folders of the same name"),
    ],
)
def test_invalid_concepts_list_is_refused_in_one_line(tmp_path, entries, message):
    path = tmp_path / "concepts.yaml"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    config = configure("model", data={"concepts_list": str(path), "instance_data_dir": None})
    with pytest.raises(UserError, match=message) as error:
        read_concepts(config)
    assert len(str(error.value).splitlines()) == 1


HOSTILE = {
    "aliases": "a: &a [x, x]\nb: [*a, *a]",
    "deep nesting": "[" * 5000,
    "a switch for a number": "- {instance_data_dir: a, num_class_images: true}",
    "a number that no one means": "- {instance_data_dir: a, num_class_images: 0x" + "f" * 9000 + "}",
    "a long key": "- {" + "x" * 100_000 + ": a}",
    "a long value": "- {num_class_images: " + "x" * 100_000 + "}",
    "a mapping": "- {instance_data_dir: {a: b}}",
    "a NUL": '- {"instance_data_dir": "a\\0b"}',
    "half a surrogate pair": '- {"instance_data_dir": "a", "instance_prompt": "\\ud800"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_concepts_list_is_refused_in_one_short_line(tmp_path, name):
    path = tmp_path / "concepts.yaml"
    path.write_text(HOSTILE[name])
    config = configure("model", data={"concepts_list": str(path), "instance_data_dir": None})
    with pytest.raises(UserError) as error:
        photos_of(config, SIZES)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 700


def test_pipe_as_concepts_list_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "concepts.yaml")
    config = configure("model", data={"concepts_list": str(tmp_path / "concepts.yaml"), "instance_data_dir": None})
    with pytest.raises(UserError, match="is not a regular file"):
        read_concepts(config)


def test_messages_name_subject(flags, capsys, caplog):
    for name in ("rex", "mini"):
        shutil.copytree("photos", name)
        shutil.copytree("masks", f"{name}-masks")
    entries = [
        {"instance_data_dir": name, "instance_mask_dir": f"{name}-masks", "instance_prompt": "a sks dog"}
        for name in ("rex", "mini")
    ]
    Path("concepts.json").write_text(json.dumps(entries))
    subjects = {"instance_data_dir": None, "instance_mask_dir": None, "concepts_list": "concepts.json"}
    wild = {"learning_rate": 1e30, "max_train_steps": 9, "train_batch_size": 1, "report_to": "none"}
    assert train(flags | subjects | wild) == 2
    assert re.search(r"photos: (rex|mini)/0\d\.png", capsys.readouterr().err)
    blank = Image.new("L", Image.open("mini/01.png").size)
    blank.save("mini-masks/01.png")
    assert train(flags | subjects, output_dir="second") == 2
    assert "the mask of mini/01.png is empty" in capsys.readouterr().err
    Path("mini-masks/01.png").unlink()
    Path("rex/01.png").write_bytes(b"x")
    assert train(flags | subjects, output_dir="third") == 2
    assert "rex/01.png cannot be decoded" in caplog.text
    assert "error: subject mini: no mask in mini-masks for 01.png" in capsys.readouterr().err


def test_class_folder_cannot_serve_two_prompts(tmp_path):
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps([{"instance_data_dir": name, "class_prompt": f"a {name}"} for name in ("dog", "cat")]))
    data = {"concepts_list": str(path), "instance_data_dir": None, "class_data_dir": "classes"}
    with pytest.raises(UserError, match="share the class_data_dir classes"):
        read_concepts(configure("model", data=data | {"with_prior_preservation": True}))
    assert len(read_concepts(configure("model", data=data))) == 2  # allowed without class images


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
    dataset = DreamBoothDataset(instances, read, PROMPTS, images, ["a dog", "a cat"])
    assert len(dataset) == 12
    used = [(index % 3, dataset._class_image(index)) for index in range(len(dataset))]
    assert {path for place, path in used if place < 2} == set(images[0])
    assert {path for place, path in used if place == 2} == set(images[1])
    assert [dataset[index].class_prompt["ids"][0, 0].item() for index in range(3)] == [1, 1, 2]


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


def test_photo_weight_scales_its_loss(models):
    config, family = make(models / "stable-diffusion")
    batch = batch_for(family, class_images=False)

    def loss(first, second):
        torch.manual_seed(1)
        _, terms = training_loss(family, batch._replace(weight=torch.tensor([first, second])), config)
        return terms["instance_loss"].item()

    alone = loss(1.0, 0.0), loss(0.0, 1.0)
    assert loss(0.25, 1.0) == pytest.approx(0.25 * alone[0] + alone[1], rel=1e-5)
