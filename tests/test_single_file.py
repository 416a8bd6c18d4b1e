"""Base models in one file: told by their header, and loaded part by part with the configs of a pipeline."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.single_file import SingleFile, is_single_file
from random_models import random_stable_diffusion
from tests.training.original_layout import save_single_file

UNET = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Stable Diffusion 1 as a pipeline, its file, and a folder of its configs; not to be modified."""
    folder, pipeline = tmp_path_factory.mktemp("base"), random_stable_diffusion()
    pipeline.save_pretrained(folder / "whole")
    save_single_file(pipeline, "1", folder / "base.safetensors")
    shutil.copytree(folder / "whole", folder / "config", ignore=shutil.ignore_patterns("*.safetensors"))
    return pipeline, folder / "base.safetensors", str(folder / "config")


def test_files_are_told_from_folders_and_names(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "model").touch()
    for name, expected in {"model": True, "a.ckpt": True, "folder.safetensors": False, "me/base": False}.items():
        assert is_single_file(str(tmp_path / name)) == expected


def test_parts_have_the_weights_of_the_pipeline(base):
    pipeline, path, config = base
    file = SingleFile.read(str(path), config)
    assert (file.pipeline, file.config) == ("StableDiffusionPipeline", config)
    for part in ("unet", "text_encoder", "vae"):
        assert file.holds(part)
        expected, found = (getattr(owner, part).state_dict() for owner in (pipeline, file.load_pipeline()))
        assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


def test_given_parts_replace_the_file_s(base):
    pipeline, path, config = base
    loaded = SingleFile.read(str(path), config).load_pipeline(unet=pipeline.unet)
    assert loaded.unet is pipeline.unet and loaded.safety_checker is None and loaded.vae is not pipeline.vae
    assert loaded.tokenizer.get_vocab() == pipeline.tokenizer.get_vocab()


def test_missing_part_is_not_held_and_missing_weights_are_named(base, tmp_path):
    _, path, config = base
    weights = load_file(path)
    without = {name: value for name, value in weights.items() if not name.startswith("cond_stage_model.")}
    save_file(without, tmp_path / "a.safetensors")
    file = SingleFile.read(str(tmp_path / "a.safetensors"), config)
    assert not file.holds("text_encoder") and file.holds("vae") and file.holds("unet")
    lost = next(name for name in weights if name.startswith("cond_stage_model.") and name.endswith("fc1.weight"))
    save_file({name: value for name, value in weights.items() if name != lost}, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"the text_encoder of .*b.safetensors lacks some of the weights"):
        SingleFile.read(str(tmp_path / "b.safetensors"), config).load(CLIPTextModel, "text_encoder")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{UNET}.scale_weight": torch.ones(1)}, r"holds quantized weights \(.*scale_weight, F32\)"),
        ({"x": torch.zeros(1, dtype=torch.uint8)}, r"holds quantized weights \(x, U8\)"),
        ({UNET: None}, "holds unknown weights, such as cond_stage_model"),
        ({UNET: torch.zeros(32, 9, 3, 3)}, "holds weights of the kind inpainting"),
    ],
)
def test_other_weights_are_refused_by_their_header(changes, words, base, tmp_path):
    _, path, config = base
    weights = {name: value for name, value in (load_file(path) | changes).items() if value is not None}
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=words):
        SingleFile.read(str(tmp_path / "a.safetensors"), config)


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    (tmp_path / "damaged.safetensors").write_bytes(b"\1" * 100)
    for name, words in {
        "a.ckpt": "is a pickle, which can run code when it is read",
        "a.txt": "is a file, but not a .safetensors file",
        "absent.safetensors": "no such file; check the path",
        "damaged.safetensors": "cannot be read .*; download it again",
    }.items():
        with pytest.raises(UserError, match=words):
            SingleFile.read(str(tmp_path / name))


def test_config_of_another_prediction_is_refused(base, tmp_path):
    pipeline, _, config = base
    for metadata, extra in (({"modelspec.prediction_type": "v"}, {}), ({}, {"v_pred": torch.zeros(0)})):
        save_single_file(pipeline, "1", tmp_path / "v.safetensors", metadata)
        save_file(load_file(tmp_path / "v.safetensors") | extra, tmp_path / "v.safetensors", metadata)
        with pytest.raises(
            UserError, match=r"says that it predicts v_prediction, but --single_file_config .* epsilon"
        ):
            SingleFile.read(str(tmp_path / "v.safetensors"), config)
