"""LoHa and LoKr in LyCORIS's format: by LyCORIS's formulas, the file changes every weight as peft's adapters do.

Files are read back too, our own and those with LyCORIS's choices of names and shapes.

`weight_change` is what LyCORIS (`functional/loha.py` and `lokr.py`) and ComfyUI (`weight_adapter`) compute from such a
file. Both were also run by hand, see docs/adapters.md.
"""

import json
from pathlib import Path

import pytest
import torch
from peft.tuners.lycoris_utils import LycorisLayer
from safetensors.torch import load_file, save_file

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.models import digest_of
from persam_dreambooth.generation import load_pipeline
from persam_dreambooth.model_source import ModelSource
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
        # Full factors have no rank, so that alpha has no meaning.
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


def changes(pipeline, parts=PREFIXES["sdxl"]):
    """Return what adapters change in every adapted layer's weight."""
    return {
        f"{part}.{layer}": module.get_delta_weight("default")
        for part in parts
        for layer, module in getattr(pipeline, part, torch.nn.Module()).named_modules()
        if isinstance(module, LycorisLayer)
    }


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("stable-diffusion", "loha", "convolutions"),
        ("stable-diffusion", "lokr", "convolutions"),
        ("sdxl", "loha", "alpha"),
    ],
)
def test_own_files_are_read_back(pipelines, tmp_path, name, kind, size):
    family = adapted(pipelines / name, kind, **SIZES[size])
    family.save(tmp_path)
    convert_file(tmp_path, tmp_path / "dog.safetensors", "dog", {})
    read = changes(load_pipeline(tmp_path / "dog.safetensors", pipelines / name, "cpu"))
    trained = changes(family)
    assert read.keys() == trained.keys() and len(read) > 12
    for layer in read:
        torch.testing.assert_close(read[layer], trained[layer], rtol=1e-5, atol=1e-7)


def tucker(core, rows, columns):
    return torch.einsum("ijkl,ip,jr->prkl", core, rows, columns).contiguous()


def loha_of_sdxl(normal):
    """LoHa for the small SDXL under the original code's names, and what it changes under diffusers'."""
    first, second = ([normal(2, 2, 3, 3), normal(2, 32), normal(2, 32)] for _ in range(2))
    factors = [normal(32, 3), normal(3, 32), normal(32, 3), normal(3, 32)]
    file = {
        "lora_unet_input_blocks_3_0_in_layers_2": {
            **dict(zip(("hada_t1", "hada_w1_a", "hada_w1_b"), first, strict=True)),
            **dict(zip(("hada_t2", "hada_w2_a", "hada_w2_b"), second, strict=True)),
            "alpha": torch.tensor(1.0),
        },
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_v": dict(
            zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), factors, strict=True)
        ),
    }
    one, two, three, four = factors
    return file, {
        "unet.down_blocks.1.resnets.0.conv1": tucker(*first) * tucker(*second) / 2,
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_v": (one @ two) * (three @ four),
    }


def lokr_of_sdxl(normal):
    """LoKr likewise: factors that peft would not choose, and alphas that differ from the rank or have no meaning."""
    full = [normal(8, 4), normal(4, 8)]
    half = [normal(2, 2), normal(16, 3), normal(3, 16)]
    both = [normal(4, 2), normal(2, 4), normal(2, 2, 3, 3), normal(2, 8), normal(2, 8)]
    flat = [normal(4, 4), normal(8, 2), normal(2, 8 * 9)]
    te1, te2 = [normal(4, 4), normal(8, 8)], [normal(1, 4), normal(37, 8)]
    block, w1, w2 = "1_transformer_blocks_0_attn1", "lokr_w1", "lokr_w2"
    file = {
        f"lora_unet_input_blocks_3_{block}_to_q": {w1: full[0], w2: full[1], "alpha": torch.tensor(0.5)},
        f"lora_unet_middle_block_{block}_to_k": {w1: half[0], f"{w2}_a": half[1], f"{w2}_b": half[2]},
        "lora_unet_output_blocks_1_2_conv": dict(
            zip((f"{w1}_a", f"{w1}_b", "lokr_t2", f"{w2}_a", f"{w2}_b"), both, strict=True)
        ),
        "lora_unet_input_blocks_2_0_op": {
            w1: flat[0],
            f"{w2}_a": flat[1],
            f"{w2}_b": flat[2],
            "alpha": torch.tensor(0),
        },
        "lora_te1_text_model_encoder_layers_0_self_attn_v_proj": {w1: te1[0], w2: te1[1]},
        "lora_te2_text_model_encoder_layers_1_mlp_fc1": {w1: te2[0], w2: te2[1]},
    }
    file[f"lora_unet_middle_block_{block}_to_k"]["alpha"] = torch.tensor(1.0)
    attention = "attentions.0.transformer_blocks.0.attn1"
    return file, {
        f"unet.down_blocks.1.{attention}.to_q": torch.kron(*full),
        f"unet.mid_block.{attention}.to_k": torch.kron(half[0], half[1] @ half[2]) / 3,
        "unet.up_blocks.0.upsamplers.0.conv": torch.kron((both[0] @ both[1])[..., None, None], tucker(*both[2:])),
        "unet.down_blocks.0.downsamplers.0.conv": torch.kron(flat[0], flat[1] @ flat[2]).reshape(32, 32, 3, 3),
        "text_encoder.encoder.layers.0.self_attn.v_proj": torch.kron(*te1),
        "text_encoder_2.encoder.layers.1.mlp.fc1": torch.kron(*te2),
    }


def written(path, file):
    """Write weights by layer as one file; returns its path."""
    save_file({f"{layer}.{kind}": value for layer, own in file.items() for kind, value in own.items()}, path)
    return path


@pytest.mark.parametrize("made", [loha_of_sdxl, lokr_of_sdxl])
def test_files_of_lycoris_are_read(pipelines, tmp_path, made):
    draws = torch.Generator().manual_seed(0)
    file, expected = made(lambda *shape: torch.randn(shape, generator=draws))
    path = written(tmp_path / "dog.safetensors", file)
    read = changes(load_pipeline(path, pipelines / "sdxl", "cpu"))
    read = {layer.replace(".text_model", ""): change for layer, change in read.items()}
    assert read.keys() == expected.keys()
    for layer in read:
        torch.testing.assert_close(read[layer], expected[layer], rtol=1e-5, atol=1e-5)
    assert ModelSource(str(path)).needs_base and digest_of(ModelSource(str(path)))


def test_generate_takes_files_of_adapters(models, tmp_path, capsys, monkeypatch):
    """Of LoRA too; without a base model, or with weights that cannot be read, it says so in a line."""
    monkeypatch.chdir(tmp_path)
    base = models / "stable-diffusion"
    adapted(base, "lora", rank=2, lora_alpha=3).save(tmp_path)
    convert_file(tmp_path / DIFFUSERS, tmp_path / "lora.safetensors", "dog", {})
    states = [load_pipeline(path, base, "cpu").unet.state_dict() for path in (tmp_path, "lora.safetensors")]
    assert states[0].keys() == states[1].keys() and all(map(torch.equal, states[0].values(), states[1].values()))

    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    factors = {"lokr_w1": torch.ones(4, 4), "lokr_w2": torch.ones(8, 8)}
    written("dog.safetensors", {layer: factors})
    size = ("--height=32", "--width=32", "--num_inference_steps=1", "--num_images=1", "--prompt=a dog")
    assert main(["generate", "--model=dog.safetensors", f"--base_model={base}", "--output=drawn", *size]) == 0
    capsys.readouterr()
    for file, words in (
        (None, "there is no training_config.yaml that names it; give --base_model"),
        ({layer: factors | {"dora_scale": torch.ones(1)}}, "has dora_scale, which is not read; give a file of plain"),
        ({layer: {"oft_blocks": torch.zeros(2, 16, 16)}}, "has oft_blocks, which is not read"),
        ({"lora_unet_other": factors}, "adapts a layer lora_unet_other, which a StableDiffusionPipeline of this base"),
        ({layer: factors | {"lokr_w2": torch.ones(8, 9)}}, "attn1.to_q do not fit its (32, 32)"),
    ):
        given = [] if file is None else [f"--base_model={base}"]
        written("dog.safetensors", file or {layer: factors})
        assert main(["generate", "--model=dog.safetensors", *given, "--output=other", *size]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]


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
