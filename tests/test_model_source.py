"""A model as the user gives it: what must be loaded first, by the files and the training's config beside it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from persam_dreambooth import model_folder
from persam_dreambooth.errors import UserError
from persam_dreambooth.generation import load_pipeline
from persam_dreambooth.model_source import ModelSource

TRAINED = {
    "pretrained_model_name_or_path": "me/base",
    "revision": "v2",
    "variant": "fp16",
    "single_file_config": "conf",
}


def trained(folder, config=TRAINED):
    """Write what a training of LoRA leaves: the weights, and the config unless it is None."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"unet.x.lora_A.weight": torch.zeros(1)}, folder / model_folder.LORA_NAME)
    if config is not None:
        (folder / model_folder.CONFIG_NAME).write_text(yaml.safe_dump(config))
    return folder


def pipeline(folder, index='{"_class_name": "StableDiffusionPipeline"}'):
    folder.mkdir()
    (folder / model_folder.PIPELINE_INDEX).write_text(index)
    return ModelSource(str(folder))


def test_weights_of_a_training_name_their_base(tmp_path):
    """From its folder, or from the file in it; what the user gives wins."""
    folder = trained(tmp_path / "dog")
    expected = ModelSource("me/base", single_file_config="conf", revision="v2", variant="fp16")
    for name in (folder, folder / model_folder.LORA_NAME):
        source = ModelSource(str(name))
        assert source.is_lora and source.needs_base and source.home == folder
        assert source.trained() == source.whole() == expected
    given = ModelSource(str(folder), "my/base", "my/config", "v3")
    assert given.whole() == ModelSource("my/base", "my/base", "my/config", "v3")
    assert ModelSource(str(folder), single_file_config="other").whole().single_file_config == "other"


def test_base_that_nothing_names_is_asked_for(tmp_path):
    source = ModelSource(str(trained(tmp_path / "dog", None)))
    assert source.trained() is None
    with pytest.raises(
        UserError, match=r"dog needs a base model, and there is no training_config.yaml .* give --base_"
    ):
        source.whole()
    (source.path / model_folder.CONFIG_NAME).write_text("a: [")
    with pytest.raises(UserError, match=r"training_config\.yaml is damaged"):
        source.whole()


def test_whole_models_need_no_base(tmp_path):
    source = pipeline(tmp_path / "whole")
    assert not source.needs_base and not source.is_lora
    assert source.whole() is source and source.trained() is None
    (source.path / model_folder.CONFIG_NAME).write_text(yaml.safe_dump(TRAINED))
    assert source.whole() is source and source.trained().name == "me/base"  # trained from it, but whole
    assert str(ModelSource("me/base", revision="v2")) == "me/base@v2" and str(source) == str(source.path)


def test_parts_in_a_checkpoint_need_the_base(tmp_path):
    checkpoint = tmp_path / "dog" / "checkpoint-5"
    (checkpoint / "unet").mkdir(parents=True)
    (checkpoint / "unet" / "config.json").write_text("{}")
    (checkpoint.parent / model_folder.CONFIG_NAME).write_text(yaml.safe_dump(TRAINED))
    assert not ModelSource(str(checkpoint)).needs_base  # not complete yet
    (checkpoint / model_folder.PROGRESS_NAME).write_text("{}")
    source = ModelSource(str(checkpoint))
    assert source.needs_base and not source.is_lora and source.whole().name == "me/base"


def test_what_is_no_pipeline_is_refused_without_loading_weights(tmp_path):
    pipeline(tmp_path / "whole").check()
    for name, index in (("empty", None), ("text", "no JSON"), ("list", "[]")):
        source = pipeline(tmp_path / name, index or "")
        if index is None:
            (source.path / model_folder.PIPELINE_INDEX).unlink()
        with pytest.raises(UserError, match=rf"^no model at .*{name}: give the --output_dir of a finished training"):
            source.check()
    lora = trained(tmp_path / "dog", {"pretrained_model_name_or_path": str(tmp_path / "text")})
    with pytest.raises(UserError, match=r"^no base model of .*dog at .*text: give"):
        ModelSource(str(lora)).check()
    with pytest.raises(UserError, match="is a pickle"):
        ModelSource(str(lora), "base.ckpt").check()


def test_pipeline_is_loaded_from_its_folder_or_its_file(models):
    loaded = ModelSource(str(models / "stable-diffusion")).load_whole()
    assert (
        type(loaded).__name__ == json.loads((models / "stable-diffusion/model_index.json").read_text())["_class_name"]
    )
    with pytest.raises(UserError, match="no such file"):
        ModelSource(str(Path("nowhere.safetensors"))).load_whole()


def test_pipeline_without_its_tokenizers_vocabulary_is_refused(models, tmp_path):
    """Transformers makes a tokenizer of it for which all words are the same."""
    folder = tmp_path / "dog"
    shutil.copytree(models / "stable-diffusion", folder)
    assert ModelSource(str(folder)).load_whole().tokenizer("a dog").input_ids
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="knows no words"):
        ModelSource(str(folder)).load_whole()
    with pytest.raises(UserError, match=r"^the model .*dog cannot be loaded \(its tokenizer knows no words"):
        load_pipeline(folder)
