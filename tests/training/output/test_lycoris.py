"""LoHa and LoKr in LyCORIS's format: by LyCORIS's formulas, the file changes every weight as peft's adapters do.

`weight_change` is what LyCORIS (`functional/loha.py` and `lokr.py`) and ComfyUI (`weight_adapter`) compute from such a
file. Both were also run by hand, see docs/adapters.md.
"""

import json
from pathlib import Path

import pytest
import torch
from peft.tuners.lycoris_utils import LycorisLayer
from safetensors.torch import load_file

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.output.kohya import convert_file, to_kohya
from tests.training.output.test_kohya import DIFFUSERS, KOHYA, metadata
from tests.training.runs import train
from tests.training.small import make

PREFIXES = {
    "stable-diffusion": {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"},
    "sdxl": {"unet": "lora_unet_", "text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"},
}
SIZES = {
    "alpha-is-rank": {"rank": 2},
    "alpha": {"rank": 2, "lora_alpha": 3},
    "full-factors": {"rank": 16, "lora_alpha": 4},  # LoKr does not factor its second matrix at this rank
    "convolutions": {"rank": 2, "lora_alpha": 3, "lora_layers": "to_q,conv1,conv_shortcut"},
}


def weight_change(weights):
    """Return what one layer's weights change, from the names that LyCORIS gives them."""
    alpha = weights["alpha"].item()
    if "hada_w1_a" in weights:
        first, second = (weights[f"hada_w{number}_a"] @ weights[f"hada_w{number}_b"] for number in (1, 2))
        return first * second * alpha / len(weights["hada_w1_b"])
    if "lokr_w2" in weights:
        second = weights["lokr_w2"]
        # Full factors have no rank, so that alpha says nothing.
        return torch.kron(weights["lokr_w1"].view(*weights["lokr_w1"].shape, *[1] * (second.ndim - 2)), second)
    factors = weights["lokr_w2_a"] @ weights["lokr_w2_b"]
    return torch.kron(weights["lokr_w1"], factors) * alpha / len(weights["lokr_w2_b"])


def adapted(base, kind, **model):
    torch.manual_seed(0)
    _, family = make(base, {"use_lora": True, "adapter_type": kind, "train_text_encoder": True} | model)
    for part in family.trained().values():
        for weight in part.parameters():
            if weight.requires_grad:
                weight.data += 0.1 * torch.randn_like(weight)
    return family


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["loha", "lokr"])
@pytest.mark.parametrize("name", PREFIXES)
def test_file_changes_every_weight_as_peft_does(pipelines, tmp_path, name, kind, size):
    if size in ("full-factors", "convolutions") and name == "sdxl":
        pytest.skip("the same code as with Stable Diffusion")
    family = adapted(pipelines / name, kind, **SIZES[size])
    family.save(tmp_path)
    convert_file(tmp_path, tmp_path / KOHYA, "dog", {})
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in load_file(tmp_path / KOHYA).items():
        layer, kind_of_weight = key.split(".")
        layers.setdefault(layer, {})[kind_of_weight] = value
    for part, prefix in PREFIXES[name].items():
        for layer, module in getattr(family, part).named_modules():
            if isinstance(module, LycorisLayer):
                theirs = module.get_delta_weight("default")
                ours = weight_change(layers.pop(prefix + layer.removeprefix("text_model.").replace(".", "_")))
                assert theirs.abs().max() > 1e-3
                torch.testing.assert_close(ours.reshape(theirs.shape), theirs, rtol=1e-5, atol=1e-6)
    assert not layers


@pytest.mark.parametrize("name", PREFIXES)
def test_layers_are_named_as_those_of_lora(pipelines, tmp_path, name):
    for kind in ("lora", "loha"):
        (tmp_path / kind).mkdir()
        adapted(pipelines / name, kind, rank=2).save(tmp_path / kind)
    lora = {key.partition(".")[0] for key in to_kohya(load_file(tmp_path / "lora" / DIFFUSERS))}
    convert_file(tmp_path / "loha", tmp_path / KOHYA, "dog", {})
    assert {key.partition(".")[0] for key in load_file(tmp_path / KOHYA)} == lora


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_convert_equals_training_output(flags, kind):
    words = ("--use_lora", f"--adapter_type={kind}", "--output_kohya_format")
    assert train(flags, *words, rank=2, lora_alpha=1, max_train_steps=2) == 0
    assert main(["convert", "--model", "output", "--output", "dog.safetensors"]) == 0
    written, converted = load_file(f"output/{KOHYA}"), load_file("dog.safetensors")
    assert written.keys() == converted.keys() and all(torch.equal(written[key], converted[key]) for key in written)
    known = metadata("dog.safetensors")
    assert known["ss_network_module"] == "lycoris.kohya" and json.loads(known["ss_network_args"]) == {"algo": kind}
    assert (known["ss_network_dim"], known["ss_network_alpha"], known["ss_output_name"]) == ("2", "2.0", "dog")
    assert known["modelspec.trigger_phrase"] == "a sks dog" and known["ss_sd_model_name"] == "stable-diffusion"
    assert len(known["persam_masks_sha256"]) == 64


def test_what_has_no_such_format_is_refused(pipelines, tmp_path):
    for name, kind, reason in (
        ("stable-diffusion", "oft", "OFT in peft's form cannot be converted: it rotates a layer's inputs"),
        ("sd3", "loha", "a transformer's LoHa or LoKr cannot be converted"),
    ):
        (tmp_path / name).mkdir()
        adapted(pipelines / name, kind, rank=2).save(tmp_path / name)
        with pytest.raises(UserError, match=reason):
            convert_file(tmp_path / name, tmp_path / KOHYA, "dog", {})
    config = tmp_path / "sd3/transformer/adapter_config.json"
    config.write_text(config.read_text()[:20])
    with pytest.raises(UserError, match=r"adapter_config\.json cannot be read"):
        convert_file(tmp_path / "sd3", tmp_path / KOHYA, "dog", {})
    assert not (tmp_path / KOHYA).exists() and not Path(KOHYA).exists()
