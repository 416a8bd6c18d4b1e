"""Adapters other than LoRA: what their files look like, and that layers compute with the weights in them."""

import json

import pytest
import torch
import torch.nn.functional as F
from peft import LoHaConfig
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from persam_dreambooth import adapter_files
from persam_dreambooth.errors import UserError
from random_models import random_stable_diffusion
from random_parts import random_clip

LAYERS = ["q_proj", "v_proj"]


def adapted(targets=LAYERS):
    """A text encoder with LoHa that changes its output."""
    torch.manual_seed(0)
    encoder = random_clip(CLIPTextModel, 0)
    encoder.add_adapter(LoHaConfig(r=2, alpha=2, target_modules=targets))
    for name, weight in encoder.named_parameters():
        if "hada_" in name:
            torch.nn.init.normal_(weight)
    return encoder.eval()


@torch.no_grad()
def states(encoder):
    return encoder(torch.arange(9)[None]).last_hidden_state


def test_saved_adapters_are_attached_to_a_plain_model(tmp_path):
    encoder = adapted()
    adapter_files.save(encoder, tmp_path / "encoder")
    plain = random_clip(CLIPTextModel, 0)
    before = states(plain)
    adapter_files.attach(plain, tmp_path / "encoder")
    assert torch.equal(states(plain.eval()), states(encoder)) and not torch.allclose(states(plain), before, atol=1e-2)


def test_files_are_those_of_peft_and_the_same_each_time(tmp_path):
    for name in ("first", "second"):
        adapter_files.save(adapted(), tmp_path / name, torch.bfloat16)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert first == second and set(first) >= {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads(first["adapter_config.json"])
    assert config["inference_mode"] and config["target_modules"] == LAYERS
    weights = load_file(tmp_path / "first" / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.") and "hada_w" in key for key in weights)
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_missing_and_unknown_weights_are_refused(tmp_path):
    adapter_files.save(adapted(), tmp_path / "encoder")
    for targets in (["q_proj"], [*LAYERS, "k_proj"]):
        with pytest.raises(ValueError, match=r"encoder's adapters do not fit: .*hada_w1_a"):
            adapter_files.load(adapted(targets), tmp_path / "encoder")


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("a.safetensors", "lora_unet_x.lora_down.weight", True),
        ("a.safetensors", "unet.x.lora_A.weight", True),
        ("a.safetensors", "lora_unet_x.hada_w1_a", True),
        ("a.safetensors", "lora_unet_x.oft_blocks", True),
        ("a.safetensors", "model.diffusion_model.x.weight", False),
        ("a.bin", "lora_unet_x.lora_down.weight", False),
    ],
)
def test_adapters_are_told_from_models_by_their_keys(name, key, expected, tmp_path):
    save_file({key: torch.zeros(1)}, tmp_path / name)
    assert adapter_files.is_adapter_file(tmp_path / name) == expected
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    assert not adapter_files.is_adapter_file(tmp_path / name) and not adapter_files.is_adapter_file(tmp_path)


@torch.no_grad()
def test_layer_computes_with_the_kronecker_product_in_the_file(tmp_path):
    """Factors are scaled by alpha over their rank; full factors are not scaled, whatever their alpha."""
    pipeline, path = random_stable_diffusion(), tmp_path / "dog.safetensors"
    draws = torch.Generator().manual_seed(0)
    first, second, left, right = (torch.randn(shape, generator=draws) for shape in ((4, 4), (8, 8), (8, 2), (2, 8)))
    save_file(
        {
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lokr_w1": first,
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lokr_w2": second,
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha": torch.tensor(7.0),
            "lora_te_text_model_encoder_layers_0_self_attn_v_proj.lokr_w1": first.clone(),
            "lora_te_text_model_encoder_layers_0_self_attn_v_proj.lokr_w2_a": left,
            "lora_te_text_model_encoder_layers_0_self_attn_v_proj.lokr_w2_b": right,
            "lora_te_text_model_encoder_layers_0_self_attn_v_proj.alpha": torch.tensor(3.0),
        },
        path,
    )
    attention = next(part for name, part in pipeline.text_encoder.named_modules() if name.endswith("0.self_attn"))
    base = {name: getattr(attention, name).weight.clone() for name in ("q_proj", "v_proj", "k_proj")}
    biases = {name: getattr(attention, name).bias for name in base}
    adapter_files.attach_file(pipeline, path)
    changes = {"q_proj": torch.kron(first, second), "v_proj": torch.kron(first, left @ right) * 3 / 2, "k_proj": 0}
    tokens = torch.randn(3, 32, generator=draws)
    for name, change in changes.items():
        expected = F.linear(tokens, base[name] + change, biases[name])
        torch.testing.assert_close(getattr(attention, name)(tokens), expected, rtol=1e-4, atol=1e-4)


def test_layers_of_another_base_and_two_kinds_at_once_are_refused(tmp_path):
    pipeline, path = random_stable_diffusion(), tmp_path / "dog.safetensors"
    query = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    save_file({"lora_te2_text_model_x.lokr_w1": torch.ones(4, 4)}, path)
    with pytest.raises(UserError, match=r"adapts a layer lora_te2_text_model_x, which a StableDiffusionPipeline"):
        adapter_files.attach_file(pipeline, path)
    save_file({f"{query}.lokr_w1": torch.ones(4, 4), f"{query}.hada_w1_a": torch.ones(4, 4)}, path)
    with pytest.raises(UserError, match="has LoHa beside LoKr, which is not read"):
        adapter_files.attach_file(pipeline, path)
