"""Loading of transformers' models and processors: what is refused, with which words, and no progress bars."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, SamImageProcessor, SamModel, ViTConfig, ViTModel
from transformers.utils import logging

from models import CLIP
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import PerSAM, load_backbone
from persam_dreambooth.segmentation.pretrained import (
    check_pretrained,
    load_image_processor,
    load_pretrained,
    load_processor,
    without_bars,
)
from random_models import random_sam
from tests.segmentation.test_backbones import refusal_of


@pytest.fixture
def copied(models, tmp_path):
    return Path(shutil.copytree(models / "sam", tmp_path / "sam"))


def test_foreign_model_folder_is_refused_by_its_type(tmp_path):
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
    ViTModel(config).save_pretrained(tmp_path)
    assert '"vit"' in refusal_of(tmp_path)


def test_folder_with_untyped_or_invalid_config_is_refused(copied):
    (copied / "config.json").write_text("{}")
    assert "is not a SAM: its config.json is missing or empty" in refusal_of(copied)
    (copied / "config.json").write_text("{")
    assert str(copied) in refusal_of(copied)


def test_sam_without_its_weights_file_is_refused(copied):
    (copied / "model.safetensors").unlink()
    assert "model.safetensors" in refusal_of(copied)


def test_sam_with_missing_weights_is_refused_naming_one(copied):
    file = copied / "model.safetensors"
    weights = {name: weight for name, weight in load_file(file).items() if "neck" not in name}
    save_file(weights, file, metadata={"format": "pt"})
    message = refusal_of(copied)
    assert "6 of a SAM's weights" in message
    assert "vision_encoder.neck.conv1.weight" in message


def test_sam_with_mismatched_weights_is_refused(copied):
    file = copied / "model.safetensors"
    weights = load_file(file)
    weights["vision_encoder.neck.conv1.weight"] = torch.zeros(3, 3, 1, 1)
    save_file(weights, file, metadata={"format": "pt"})
    assert str(copied) in refusal_of(copied)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_damaged_safetensors_file_is_refused(tmp_path, content):
    random_sam().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError):
        load_backbone(tmp_path, device="cpu")


def test_weights_bin_with_code_is_refused(tmp_path):
    random_sam().save_pretrained(tmp_path)
    torch.save({**load_file(tmp_path / "model.safetensors"), "x": PerSAM}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError):
        load_backbone(tmp_path, device="cpu")


def test_config_that_is_not_object_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError):
        load_backbone(tmp_path, device="cpu")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_while_loading_is_not_reported_as_damage(tmp_path, monkeypatch, error):
    random_sam().save_pretrained(tmp_path)

    def exhausted(*args, **kwargs):
        raise error

    monkeypatch.setattr(SamModel, "from_pretrained", exhausted)
    with pytest.raises(type(error)) as caught:
        load_backbone(tmp_path, device="cpu")
    assert caught.value is error


def test_pipeline_folder_is_not_sam(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(UserError, match="not a SAM but a diffusers pipeline"):
        load_backbone(tmp_path, device="cpu")


def test_loading_shows_no_progress_bar(tmp_path, capfd):
    random_sam().save_pretrained(tmp_path)
    capfd.readouterr()
    load_backbone(tmp_path, device="cpu")
    assert "Loading weights" not in capfd.readouterr().err


def test_model_type_is_known_from_the_config_alone(copied):
    (copied / "model.safetensors").write_bytes(b"damaged")
    assert check_pretrained(str(copied), ["sam2", "sam"], "SAM", "an example") == "sam"
    with pytest.raises(UserError, match='has the model_type "sam"; supported are vit'):
        check_pretrained(str(copied), ["vit"], "DINO", "an example")
    with pytest.raises(UserError, match="a hub name such as an example"):
        check_pretrained(str(copied / "none"), ["sam"], "SAM", "an example")


def test_model_comes_with_its_type(copied):
    model, kind = load_pretrained(str(copied), {"sam": SamModel}, "SAM", "an example")
    assert kind == "sam" and type(model) is SamModel
    own = random_sam().state_dict()
    assert all(torch.equal(weight, own[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bars_are_as_before_even_after_an_error(shown):
    before = logging.is_progress_bar_enabled()
    change = {True: logging.enable_progress_bar, False: logging.disable_progress_bar}
    try:
        change[shown]()
        downloads = are_progress_bars_disabled()
        with pytest.raises(ZeroDivisionError), without_bars():
            assert not logging.is_progress_bar_enabled()
            assert are_progress_bars_disabled() == downloads  # downloads take minutes, so they keep theirs
            raise ZeroDivisionError
        assert logging.is_progress_bar_enabled() == shown
    finally:
        change[before]()


@pytest.mark.parametrize("content", [None, "{", '{"image_processor_type": "NoSuchProcessor"}'])
def test_missing_or_damaged_image_processor_is_refused(copied, content):
    if content:
        (copied / "preprocessor_config.json").write_text(content)
    with pytest.raises(UserError, match=r"no preprocessor_config\.json that can be read"):
        load_image_processor(str(copied))
    SamImageProcessor(size={"longest_edge": 77}).save_pretrained(copied)
    assert load_image_processor(str(copied)).size["longest_edge"] == 77


def test_processor_without_its_tokenizers_files_is_refused(tmp_path):
    assert load_processor(str(CLIP)).tokenizer("a dog")["input_ids"]
    AutoImageProcessor.from_pretrained(CLIP).save_pretrained(tmp_path)
    shutil.copy(Path(CLIP) / "config.json", tmp_path)
    with pytest.raises(UserError, match="lacks its tokenizer"):
        load_processor(str(tmp_path))
