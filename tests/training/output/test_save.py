"""Saving: written beside, moved last, without the folders of the base model; and the files of an upload."""

import json

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.output.model_card import Card
from persam_dreambooth.training.output.save import claim_repository, collect_public, forget_origin, save_model
from tests.training.small import configure, make

LORA = "pytorch_lora_weights.safetensors"


def test_origin_is_reduced_to_its_name_in_configs_and_weights(tmp_path):
    for name in ("unet", "scheduler"):
        (tmp_path / name).mkdir()
    index = {"_name_or_path": "/home/me/base", "unet": ["diffusers", "UNet"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"a": {"base_name_or_path": "/home/me/other"}, "b": 1}))
    plain = tmp_path / "scheduler" / "scheduler_config.json"
    plain.write_text('{"steps":   3}')
    words = {"lora": json.dumps({"base_model_name_or_path": "/home/me/base", "r": 4}), "format": "pt"}
    save_file({"x": torch.arange(3.0)}, tmp_path / LORA, words)
    forget_origin(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text()) == index | {"_name_or_path": "base"}
    assert json.loads((tmp_path / "unet" / "config.json").read_text()) == {"a": {"base_name_or_path": "other"}, "b": 1}
    assert plain.read_text() == '{"steps":   3}'  # left as it is
    with safe_open(tmp_path / LORA, "pt") as file:
        known = file.metadata()
    assert json.loads(known["lora"]) == {"base_model_name_or_path": "base", "r": 4} and known["format"] == "pt"
    assert load_file(tmp_path / LORA)["x"].tolist() == [0, 1, 2]


def test_pipeline_replaces_an_older_one_and_its_index_comes_last(models, tmp_path):
    output = {"output_dir": str(tmp_path / "dog")}
    (tmp_path / "dog" / "unet").mkdir(parents=True)
    (tmp_path / "dog" / "unet" / "old.bin").touch()
    _, family = make(models / "stable-diffusion")
    config = configure(models / "stable-diffusion", output=output | {"upcast_before_saving": True})
    family.place(torch.device("cpu"), torch.bfloat16)
    names = save_model(family, config, {})
    assert names[-1] == "model_index.json" and {"unet", "vae", "text_encoder"} < set(names)
    assert sorted([*names, "training_config.yaml"]) == sorted(path.name for path in (tmp_path / "dog").iterdir())
    weights = tmp_path / "dog" / "unet"
    assert not (weights / "old.bin").exists()
    assert load_file(weights / "diffusion_pytorch_model.safetensors").popitem()[1].dtype == torch.float32
    assert str(models) not in (weights / "config.json").read_text()


def test_lora_is_described_and_written_in_kohyas_format_too(models, tmp_path):
    model = {"use_lora": True, "rank": 2}
    _, family = make(models / "stable-diffusion", model)
    output = {"output_dir": str(tmp_path / "dog"), "output_kohya_format": True}
    (tmp_path / "dog").mkdir()
    names = save_model(family, configure(models / "stable-diffusion", model, output=output), {"ss_seed": "7"})
    assert names == [LORA, "pytorch_lora_weights_kohya.safetensors"]
    for name in names:
        with safe_open(tmp_path / "dog" / name, "pt") as file:
            assert file.metadata()["ss_seed"] == "7"


def test_unwritable_model_is_one_line_with_what_to_do(models, tmp_path, file_limit):
    _, family = make(models / "stable-diffusion", {"use_lora": True})
    (tmp_path / "dog").mkdir()
    config = configure(models / "stable-diffusion", {"use_lora": True}, output={"output_dir": str(tmp_path / "dog")})
    config.save(tmp_path / "dog" / "training_config.yaml")
    file_limit(1000)
    with pytest.raises(UserError, match=r"the model cannot be written .*there is no checkpoint yet") as refused:
        save_model(family, config, {})
    assert "--resume_from_checkpoint latest" in str(refused.value) and "\n" not in str(refused.value)
    assert [path.name for path in (tmp_path / "dog").iterdir()] == ["training_config.yaml"]


def test_only_listed_files_are_collected_for_the_hub(tmp_path):
    base = tmp_path / "private" / "base"
    base.mkdir(parents=True)
    output = tmp_path / "dog"
    files = ("unet/config.json", "unet/w.safetensors", LORA, "validation/step-1.png", "manifest.jsonl", "masks.png")
    for name in (*files, "logs/events", "hub/left-over"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(name)
    given = {"output_dir": str(output), "push_to_hub": True}
    for more, shown in (({}, set()), ({"push_masks_to_hub": True}, {"masks.png"})):
        config = configure(base, {"use_lora": True}, output=given | more)
        card = Card(config, [Concept.of(config)], [], [], "StableDiffusion")
        folder = collect_public(config, ["unet", LORA], card)
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert found == {*files[:4], "README.md", "training_config.yaml"} | shown
    assert (folder / LORA).samefile(output / LORA)  # no copy
    assert yaml.safe_load((folder / "training_config.yaml").read_text())["pretrained_model_name_or_path"] == "base"


def test_repository_that_cannot_be_made_is_refused_without_the_token(tmp_path):
    output = {"output_dir": str(tmp_path / "dog"), "hub_token": "hf_SECRET"}
    assert claim_repository(configure("base")) is None
    with pytest.raises(UserError, match=r"the repository dog cannot be created \(\w+\); log in") as refused:
        claim_repository(configure("base", output=output | {"push_to_hub": True}))
    assert "SECRET" not in str(refused.value) and refused.value.__cause__ is None
