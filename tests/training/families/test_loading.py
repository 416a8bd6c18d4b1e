"""Parts, configs and tokenizers as they are read, and errors that name them."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.families import loading
from random_models import random_flux, random_stable_diffusion
from random_parts import byte_tokenizer, random_clip, random_vae
from tests.training.original_layout import save_single_file
from tests.training.runs import train
from tests.training.small import configure


def test_autoencoder_of_other_latents_is_refused(flags, capsys):
    settings = dict(random_vae(7, 2).config)
    AutoencoderKL.from_config(settings | {"latent_channels": 8}).save_pretrained("wide")
    assert train(flags, pretrained_vae_model_name_or_path="wide") == 2
    assert "wide has other latents (latent_channels 8) than the base model's" in capsys.readouterr().err
    assert train(flags, pretrained_vae_model_name_or_path="nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def test_errors_name_what_was_loaded_in_one_line():
    with pytest.raises(UserError) as error, loading.naming("the unet of dog"):
        raise ValueError("no such file\nat all")
    assert str(error.value) == "the unet of dog cannot be loaded (no such file); check the name, or download it again"
    assert isinstance(error.value.__cause__, ValueError)
    own = UserError("of its own words")
    with pytest.raises(UserError) as error, loading.naming("the unet of dog"):
        raise own
    assert error.value is own


def test_part_that_lacks_weights_is_refused_and_others_have_the_precision(tmp_path):
    random_clip(CLIPTextModel, 0).save_pretrained(tmp_path / "text_encoder")
    config = configure(tmp_path).model
    for dtype in (torch.float32, torch.bfloat16):
        part = loading.load_part(CLIPTextModel, "text_encoder", config, dtype=dtype)
        assert {weight.dtype for weight in part.parameters()} == {dtype}
    file = tmp_path / "text_encoder/model.safetensors"
    names = sorted(load_file(file))
    save_file({name: load_file(file)[name] for name in names[2:]}, file, metadata={"format": "pt"})
    with pytest.raises(UserError) as error:
        loading.load_part(CLIPTextModel, "text_encoder", config)
    assert f"the text_encoder of {tmp_path} lacks 2 of its weights (for example {names[0]})" in str(error.value)


def test_single_file_is_read_once_and_again_if_it_changes(models, tmp_path):
    path, base = tmp_path / "base.safetensors", models / "stable-diffusion"
    save_single_file(random_stable_diffusion(), "1", path, {"written": "first"})
    config = configure(path, {"single_file_config": str(base)}).model
    first = loading.single_file(config)
    assert loading.single_file(config) is first and loading.source(config) == str(base)
    save_single_file(random_stable_diffusion(), "1", path, {"written": "a second time"})
    again = loading.single_file(config)
    assert again is not first and again.path == path
    of_folder = configure(base).model
    assert loading.single_file(of_folder) is None and loading.source(of_folder) == str(base)


def test_tokens_are_padded_and_cut():
    """To the length that is asked for, or the tokenizer's own; `ids_and_mask` has the same and nothing else."""
    tokenizer = byte_tokenizer(max_length=12)
    for length in (None, 6):
        for prompt, count in (("dog", 5), ("a long dog", 10), ("d" * 99, 101)):
            longest = length or 12
            padded, own = (loading.token_ids(tokenizer, prompt, length, padded=padded) for padded in (True, False))
            assert padded.input_ids.shape == (1, longest) and own.input_ids.shape == (1, min(count, longest))
            assert int(padded.attention_mask.sum()) == min(count, longest) and own.attention_mask.all()
            assert torch.equal(padded.input_ids[:, : own.input_ids.shape[1]], own.input_ids)
            both = loading.ids_and_mask(tokenizer, prompt, length)
            assert list(both) == ["input_ids", "attention_mask"] and torch.equal(both["input_ids"], padded.input_ids)


def test_repeated_blocks_are_compiled_in_place(monkeypatch):
    """A model without such blocks is compiled whole; the limit of variants is raised and never lowered."""
    model = random_flux().transformer
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    names = set(model.state_dict())
    for before, limit in ((8, loading.RECOMPILATIONS), (1000, 1000)):
        monkeypatch.setattr(torch._dynamo.config, "recompile_limit", before)
        loading.compile_blocks(model)
        assert torch._dynamo.config.recompile_limit == limit
    compiled = [module for module in model.modules() if module._compiled_call_impl is not None]
    assert compiled == blocks and set(model.state_dict()) == names
    whole = torch.nn.Sequential(torch.nn.Linear(1, 1))
    loading.compile_blocks(whole)
    assert whole._compiled_call_impl is not None and whole[0]._compiled_call_impl is None
    assert loading.unwrapped(torch.nn.DataParallel(whole)) is whole and loading.unwrapped(whole) is whole


def test_tokenizer_without_its_vocabulary_is_refused(pipelines, tmp_path):
    """The base model's, and the one of --tokenizer_name; all prompts would be the same."""
    base, other = tmp_path / "base", tmp_path / "other"
    shutil.copytree(pipelines / "stable-diffusion", base)
    shutil.copytree(base / "tokenizer", other)
    given = configure(base, {"tokenizer_name": str(other)}).model
    assert loading.load_tokenizer("tokenizer", given)("a dog").input_ids
    (other / "tokenizer.json").unlink()
    (base / "tokenizer" / "tokenizer.json").unlink()
    for config, name in ((given, other), (configure(base).model, base)):
        with pytest.raises(
            UserError, match=rf"^the tokenizer of {name} cannot be loaded \(its tokenizer knows no words"
        ):
            loading.load_tokenizer("tokenizer", config)
