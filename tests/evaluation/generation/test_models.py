"""The models to compare: their titles, and the digests by which a new training is noticed."""

import json
import shutil
from pathlib import Path

import pytest

from persam_dreambooth import model_folder
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.models import Model, base_digest_of, digest_of, name_models
from persam_dreambooth.model_source import ModelSource


def test_model_is_identified_by_its_loaded_weights(generators, tmp_path):
    assert digest_of(ModelSource(str(generators / "one"))) == digest_of(ModelSource(str(generators / "copy")))
    assert digest_of(ModelSource(str(generators / "one"))) != digest_of(ModelSource(str(generators / "other")))
    assert digest_of(ModelSource("somebody/something")) == ""
    lora = ModelSource(str(tmp_path))
    own, others = tmp_path / "pytorch_lora_weights.safetensors", tmp_path / "checkpoint-1" / "model.safetensors"
    own.write_bytes(b"weights")
    first = digest_of(lora)
    others.parent.mkdir()
    others.write_bytes(b"others")
    (tmp_path / "pytorch_lora_weights_kohya.safetensors").write_bytes(b"the same in other words")
    assert digest_of(lora) == first != ""
    own.write_bytes(b"new weights")
    assert digest_of(lora) != first


def test_pipeline_index_cannot_point_outside_its_folder(generators, tmp_path):
    folder = Path(shutil.copytree(generators / "one", tmp_path / "a" / "model"))
    before = digest_of(ModelSource(str(folder)))
    index = json.loads((folder / model_folder.PIPELINE_INDEX).read_text())
    for name in ("..", "../b", str(tmp_path / "b"), ""):
        index[name] = index["unet"]
    (folder / model_folder.PIPELINE_INDEX).write_text(json.dumps(index))
    for place in (tmp_path / "b", folder.parent / "b", folder):
        place.mkdir(exist_ok=True)
        (place / "secret.bin").write_bytes(b"")
    assert digest_of(ModelSource(str(folder))) == before


def test_base_is_identified_unless_it_is_the_model_itself_or_on_the_hub(generators, tmp_path):
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    of_base = [base_digest_of(ModelSource(str(tmp_path), str(generators / name))) for name in ("one", "copy", "other")]
    assert of_base[0] == of_base[1] == digest_of(ModelSource(str(generators / "one"))) != of_base[2]
    assert base_digest_of(ModelSource(str(generators / "one"), "ignored")) is None
    assert base_digest_of(ModelSource(str(tmp_path), "somebody/something")) is None


def test_single_file_is_identified_by_its_content(tmp_path):
    digests = []
    for name, content in (("a.safetensors", b"1"), ("b.safetensors", b"1"), ("c.safetensors", b"2")):
        (tmp_path / name).write_bytes(content)
        digests.append(digest_of(ModelSource(str(tmp_path / name))))
    assert digests[0] == digests[1] != digests[2] and all(len(digest) == 16 for digest in digests)


def test_titles_are_given_or_the_last_part_of_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dog", "key=x"):  # an existing folder may have = in its name, which is no title before it
        Path(name).mkdir()
    ready = Model("ready", ModelSource("anything"))
    with pytest.raises(UserError, match="--model key=x: give TITLE=FOLDER, its title of letters"):
        name_models(["key=x"])
    named = name_models([Path("dog"), "hub/name", "My dog 1.0=key=x", ready], "base", "config")
    assert [(model.title, model.source) for model in named] == [
        ("dog", ModelSource("dog", "base", "config")),
        ("name", ModelSource("hub/name", "base", "config")),
        ("My dog 1.0", ModelSource("key=x", "base", "config")),
        ("ready", ModelSource("anything")),
    ]
    monkeypatch.chdir("dog")
    assert name_models(["."])[0].title == "dog"


@pytest.mark.parametrize("word", ["=dog", "../up=dog", "dog=", "a/b=dog", " x=dog"])
def test_titles_that_name_no_folder_are_refused(word):
    with pytest.raises(UserError, match="give TITLE=FOLDER"):
        name_models([word])


def test_two_models_need_two_titles():
    with pytest.raises(UserError, match="two models have the title 'dog'; give titles"):
        name_models(["one/dog", "cat", "two/dog"])
    assert [model.title for model in name_models(["one/dog", "other=two/dog"])] == ["dog", "other"]
