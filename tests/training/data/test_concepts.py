"""The subjects: their captions, and the list of several of them, with the messages that name each."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.training.data.concepts import read_concepts
from persam_dreambooth.training.data.instances import find_instances
from tests.scene import scene
from tests.training.runs import train
from tests.training.small import configure, photos_of

pytestmark = pytest.mark.usefixtures("process_state")
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
