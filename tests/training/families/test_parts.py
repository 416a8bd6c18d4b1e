"""A pipeline's parts: precisions in which they are read, what is adapted, checksums, and what is saved."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families import check_base_model, load_family
from random_models import PIPELINES, random_stable_diffusion
from tests.training.small import NAMED, configure, make

families = pytest.mark.parametrize("name", PIPELINES)


@families
def test_accepted_sides_match_denoiser(pipelines, name):
    config = ModelConfig(pretrained_model_name_or_path=str(pipelines / name))
    kind = check_base_model(config)
    expected = {"stable-diffusion": (2, 2), "sdxl": (2, 2), "lumina2": (8, 16)}
    assert (kind.cell_of(config), kind.side_unit_of(config)) == expected.get(name, (2, 4))
    assert DiffusionPipeline.from_pretrained(pipelines / name).vae_scale_factor == kind.cell_of(config)


def tensors_of(family):
    """Return all weights and buffers by part and name, and tensors that modules hold as plain attributes."""
    parts = {name: getattr(family, name) for name in ("vae", *family.encoders, family.denoiser[0])}
    return {
        f"{part} {name} {key}": value
        for part, module in parts.items()
        for name, layer in (module.named_modules() if module is not None else ())
        for key, value in (layer._parameters | layer._buffers | vars(layer)).items()
        if isinstance(value, torch.Tensor)
    }


@pytest.mark.parametrize("name", ["sdxl", "sd3", "lumina2", "qwen-image"])
def test_frozen_parts_are_read_in_the_precision_of_training(pipelines, name):
    """With the same bits as if they were read in float32 and then cast."""
    config, low, placed = configure(pipelines / name, {"use_lora": True}), torch.bfloat16, []
    for dtype in (torch.float32, low):
        torch.manual_seed(0)
        family = load_family(config.model, dtype)
        if dtype == low:
            denoiser = getattr(family, family.denoiser[0])
            assert {weight.dtype for key, weight in denoiser.named_parameters() if "lora_" not in key} == {low}
            encoders = [getattr(family, part) for part in family.encoders]
            assert {weight.dtype for part in encoders for weight in part.parameters()} == {low}
            assert next(family.vae.parameters()).dtype == (family.vae_dtype or low)
        family.place(torch.device("cpu"), low)
        placed.append(tensors_of(family))
    cast, read = placed
    assert cast.keys() == read.keys()
    assert all(cast[key].dtype == read[key].dtype and torch.equal(cast[key], read[key]) for key in cast)


@pytest.mark.parametrize("text", [True, False])
def test_parts_trained_whole_are_read_in_float32(pipelines, text):
    config = configure(pipelines / "stable-diffusion", {"train_text_encoder": text})
    family = load_family(config.model, torch.bfloat16)
    assert family.unet.dtype == torch.float32 and family.vae.dtype == torch.bfloat16
    assert family.text_encoder.dtype == (torch.float32 if text else torch.bfloat16)


def test_only_layers_are_adapted_and_only_new_words_inverted(pipelines):
    def names(**model):
        _, family = make(pipelines / "stable-diffusion", model)
        return [list(parts) for parts in (family.trained(), family.adapted(), family.inverted())]

    assert names() == [["unet"], ["unet"], []]
    assert names(use_lora=True, train_text_encoder=True) == [["unet", "text_encoder"], ["unet", "text_encoder"], []]
    assert names(use_lora=True, train_text_encoder_ti=True) == [["unet", "text_encoder"], ["unet"], ["text_encoder"]]
    assert names(train_text_encoder_ti=True) == [["unet", "text_encoder"], [], ["text_encoder"]]


@pytest.mark.parametrize(("part", "of"), [("vae", "vae"), ("text", "text_encoder_2")])
def test_checksum_follows_weights_and_precision_of_its_part(pipelines, part, of):
    """Of the autoencoder or of all text encoders; a change of the others does not matter."""
    _, family = make(pipelines / "sdxl", {"use_lora": True})
    before = {kind: family.checksum(kind) for kind in ("vae", "text")}
    assert before == {kind: make(pipelines / "sdxl", {"use_lora": True})[1].checksum(kind) for kind in before}
    with torch.no_grad():
        next(getattr(family, of).parameters()).view(-1)[0] += 1
    changed = {kind: family.checksum(kind) for kind in before}
    assert {kind for kind in before if changed[kind] != before[kind]} == {part}
    rounded = [getattr(family, of).to(dtype) and family.checksum(part) for dtype in (torch.bfloat16, torch.float32)]
    assert rounded[0] != rounded[1]  # the same numbers, but what they compute differs


def test_optional_encoder_is_there_if_the_index_names_it(pipelines, tmp_path):
    """Known without loading anything."""
    index = json.loads((pipelines / "sd3/model_index.json").read_text())
    both, t5 = ["text_encoder", "text_encoder_2"], "text_encoder_3"
    for changed, expected in (
        ({}, [*both, t5]),
        ({t5: [None, None]}, both),
        ({"text_encoder_2": [None, None]}, [*both, t5]),
    ):
        (tmp_path / "model_index.json").write_text(json.dumps(index | changed))
        assert NAMED["sd3"].encoders_of(configure(tmp_path).model) == expected
    (tmp_path / "model_index.json").write_text(json.dumps({key: value for key, value in index.items() if key != t5}))
    assert NAMED["sd3"].encoders_of(configure(tmp_path).model) == both


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_pipeline_is_saved_in_one_precision(tmp_path, dtype):
    """Also the parts of a base that is stored in half precision; a text encoder is left out on demand."""
    random_stable_diffusion().to(torch.float16).save_pretrained(tmp_path / "base")
    _, family = make(tmp_path / "base")
    family.save(tmp_path / "saved", dtype=dtype)
    saved = {path.parent.name: load_file(path) for path in (tmp_path / "saved").rglob("*.safetensors")}
    assert saved.keys() == {"unet", "vae", "text_encoder"}
    assert {value.dtype for weights in saved.values() for value in weights.values()} == {dtype}
    family.save(tmp_path / "without", skip_text_encoder=True)
    assert (tmp_path / "without/unet").is_dir() and not (tmp_path / "without/text_encoder").exists()
