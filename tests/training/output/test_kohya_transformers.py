"""LoRA weights of transformers in kohya's format have the same effect as diffusers' file, by independent readers.

Flux.1's are read by diffusers' own reader. It has none for SD3 and Lumina Image 2.0, so those weights, and
Flux.1's again, are added to the original checkpoint as sd-scripts and ComfyUI do (`lora_unet_` and the
layer's original name with `_` for `.`), and diffusers' converter of those checkpoints maps them to its own layers.
The weights are small integers, which float32 represents exactly: equal means bit-identical.
"""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from diffusers import (
    Flux2KleinPipeline,
    Flux2Pipeline,
    FluxPipeline,
    Krea2Pipeline,
    QwenImagePipeline,
    SD3Transformer2DModel,
    ZImagePipeline,
)
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.output.kohya import convert_file, to_kohya
from random_models import random_sd3
from tests.training.output.test_kohya import DIFFUSERS, KOHYA, disturb, metadata
from tests.training.runs import train
from tests.training.small import make

FLUX_STREAM = ["attn.qkv", "attn.proj", "mlp.0", "mlp.2", "mod.lin"]
SD3_BLOCK = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
LUMINA_BLOCK = ["attention.qkv", "attention.out", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]
# Family: layers of its original checkpoint in the small models, diffusers' converter for it, and how much larger
# the real model is than the small one if the converter assumes the real size.
ORIGINALS = {
    "flux": (
        [f"double_blocks.0.{stream}_{layer}" for stream in ("img", "txt") for layer in FLUX_STREAM]
        + [f"single_blocks.0.{layer}" for layer in ("linear1", "linear2", "modulation.lin")],
        single_file_utils.convert_flux_transformer_checkpoint_to_diffusers,
        3072 // 32,
    ),
    "sd3": (
        [f"joint_blocks.{number}.x_block.{layer}" for number in (0, 1) for layer in SD3_BLOCK]
        + [f"joint_blocks.0.context_block.{layer}" for layer in SD3_BLOCK]
        # 3.5 medium has a second attention in its first blocks; no model's last block outputs the prompt's tokens.
        + ["joint_blocks.0.x_block.attn2.qkv", "joint_blocks.0.x_block.attn2.proj"]
        + ["joint_blocks.1.context_block.attn.qkv"],
        single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
        1,
    ),
    "lumina2": (
        [
            f"{block}.{layer}"
            for block in ("layers.0", "layers.1", "noise_refiner.0", "context_refiner.0")
            for layer in LUMINA_BLOCK
        ],
        single_file_utils.convert_lumina2_to_diffusers,
        2304 // 24,
    ),
}
UNNAMED = {"flux": (), "sd3": ("norm1.linear", "norm1_context.linear"), "lumina2": ("norm1.linear",)}
families = pytest.mark.parametrize("name", ORIGINALS)


class SparseCheckpoint(dict):
    """An original checkpoint in which all but some layers are 0, of any size that a converter needs."""

    def pop(self, key, *default):
        return super().pop(key, torch.zeros(7 * 3072))

    def __missing__(self, key):
        return torch.zeros(1)


def integer_weights(pipelines, name):
    """Draw LoRA weights, in diffusers' format with the real model's rows, for all layers that have a name."""
    transformer = make(pipelines / name)[1].transformer
    larger = ORIGINALS[name][2]
    generator = torch.Generator().manual_seed(0)
    state = {}
    for layer, module in transformer.named_modules():
        in_block = "." in layer and layer.split(".")[1].isdecimal()
        if isinstance(module, torch.nn.Linear) and in_block and not layer.endswith(UNNAMED[name]):
            shapes = {"lora_A": (4, module.in_features), "lora_B": (module.out_features * larger, 4)}
            for kind, shape in shapes.items():
                value = torch.randint(-3, 4, shape, generator=generator).float()
                state[f"transformer.{layer}.{kind}.weight"] = value
    return state


def weight_change(weights, layer, down, up, scale):
    return weights[f"{layer}.{up}.weight"] @ weights[f"{layer}.{down}.weight"] * scale


def weight_changes(state, scale):
    """Map each layer to what LoRA weights in diffusers' format add to it."""
    layers = sorted({key.partition(".lora")[0] for key in state})
    return {layer: weight_change(state, layer, "lora_A", "lora_B", scale) for layer in layers}


def weight_changes_from_kohya(converted, name):
    """Like `changes`, for weights in kohya's format, read layer by layer of the original checkpoint."""
    layers, convert, _ = ORIGINALS[name]
    read = {layer: f"lora_unet_{layer.replace('.', '_')}" for layer in layers}
    assert {key.partition(".")[0] for key in converted} == set(read.values())
    checkpoint = SparseCheckpoint()
    for layer, theirs in read.items():
        scale = converted[f"{theirs}.alpha"].item() / len(converted[f"{theirs}.lora_down.weight"])
        checkpoint[f"{layer}.weight"] = weight_change(converted, theirs, "lora_down", "lora_up", scale)
    return {f"transformer.{key.removesuffix('.weight')}": value for key, value in convert(checkpoint).items()}


@families
@pytest.mark.parametrize("alpha", [None, 3, 16])
def test_both_formats_change_every_weight_alike(pipelines, name, alpha):
    state = integer_weights(pipelines, name)
    converted = to_kohya(state, alpha and {"transformer.lora_alpha": alpha})
    ours, theirs = weight_changes(state, 1 if alpha is None else alpha / 4), weight_changes_from_kohya(converted, name)
    assert all(torch.equal(theirs[layer], value) for layer, value in ours.items())
    assert all(theirs[layer].count_nonzero() == 0 for layer in theirs.keys() - ours.keys())
    assert all(value.is_contiguous() and value.dtype == torch.float32 for value in converted.values())


@pytest.mark.parametrize("missing", [[], ["proj_mlp"]])  # the feed-forward of single blocks is not trained here
@pytest.mark.parametrize("alpha", [3, 4, 16])
def test_diffusers_reads_flux_adapters(pipelines, alpha, missing):
    state = {
        key: value for key, value in integer_weights(pipelines, "flux").items() if key.split(".")[3] not in missing
    }
    read = FluxPipeline.lora_state_dict(to_kohya(state, {"transformer.lora_alpha": alpha}))
    # It folds the scale into lora_A.
    scaled = {key: value * alpha / 4 if "lora_A" in key else value for key, value in state.items()}
    assert all(torch.equal(read.pop(key), value) for key, value in scaled.items())
    assert {key.split(".")[3] for key in read} == set(missing)
    assert all(value.count_nonzero() == 0 for value in read.values())


@torch.no_grad()
def prediction_of(pipeline, path=None):
    """Return the denoiser's prediction for a prompt, with the LoRA weights of a file."""
    if path is not None:
        pipeline.load_lora_weights(path.parent, weight_name=path.name)
    embeds, pooled, text_ids = pipeline.encode_prompt("a sks dog", "a sks dog", device="cpu", max_sequence_length=16)
    latents = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(1))
    prediction = pipeline.transformer(
        latents,
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
        timestep=torch.tensor([0.5]),
        guidance=torch.tensor([3.5]),
        txt_ids=text_ids,
        img_ids=pipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32),
    ).sample
    if path is not None:
        pipeline.unload_lora_weights()
    return prediction


def test_flux_predicts_same_with_both_formats(pipelines, tmp_path):
    """Without the single blocks, which diffusers' reader assumes to have 3072 channels."""
    _, family = make(pipelines / "flux", {"use_lora": True, "train_text_encoder": True, "rank": 4, "lora_alpha": 16})
    disturb(family.trained().values())
    family.save(tmp_path)
    convert_file(tmp_path / DIFFUSERS, tmp_path / KOHYA, "dog", {})
    for name in (DIFFUSERS, KOHYA):
        with safe_open(tmp_path / name, "pt") as file:
            known = file.metadata()
        weights = {key: value for key, value in load_file(tmp_path / name).items() if "single" not in key}
        save_file(weights, tmp_path / name, known)
    assert {key[:9] for key in load_file(tmp_path / KOHYA)} == {"lora_unet", "lora_te1_"}
    pipeline = FluxPipeline.from_pretrained(pipelines / "flux")
    theirs, ours = prediction_of(pipeline, tmp_path / DIFFUSERS), prediction_of(pipeline, tmp_path / KOHYA)
    assert torch.equal(theirs, ours) and (theirs - prediction_of(pipeline)).abs().max() > 1e-2


@families
def test_convert_equals_training_output(flags, pipelines, name):
    flags |= {"pretrained_model_name_or_path": pipelines / name, "max_train_steps": 1}
    assert train(flags, "--use_lora", "--output_kohya_format", lora_alpha=8) == 0
    written = load_file(Path("output") / KOHYA)
    known = {f"lora_unet_{layer.replace('.', '_')}" for layer in ORIGINALS[name][0]}
    assert written and {key.partition(".")[0] for key in written} <= known
    assert main(["convert", "--model", "output", "--output", "dog.safetensors"]) == 0
    converted = load_file("dog.safetensors")
    assert converted.keys() == written.keys() and all(torch.equal(converted[key], written[key]) for key in written)
    assert metadata("dog.safetensors")["ss_network_module"] == f"networks.lora_{name.removesuffix('2')}"


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
FLUX2_LAYERS = (*ATTENTION, "linear_in", "linear_out", "to_qkv_mlp_proj", "single_transformer_blocks.0.attn.to_out")
NEWER = {
    # Family: its pipeline, whose reader of kohya's format is diffusers' own, and the layers that have a name.
    "flux2": (Flux2Pipeline, FLUX2_LAYERS),
    "flux2-klein": (Flux2KleinPipeline, FLUX2_LAYERS),
    "qwen-image": (QwenImagePipeline, (*ATTENTION, "img_mod.1", "txt_mod.1", "net.0.proj", "net.2")),
    "z-image": (ZImagePipeline, (*ATTENTION[:4], "w1", "w2", "w3")),
}


def integers_of(pipelines, name, folder, layers):
    """Draw LoRA weights in diffusers' format for some layers of a family."""
    _, family = make(pipelines / name, {"use_lora": True, "rank": 4, "lora_layers": layers and ",".join(layers)})
    family.save(folder)
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randint(-3, 4, value.shape, generator=generator).float()
        for key, value in load_file(folder / DIFFUSERS).items()
    }


def assert_same_changes(read, state, scale):
    theirs, ours = weight_changes(read, 1), weight_changes(state, scale)
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[layer], value) for layer, value in ours.items())


@pytest.mark.parametrize("alpha", [None, 3, 16])
@pytest.mark.parametrize("name", NEWER)
def test_diffusers_reads_the_newer_families(pipelines, tmp_path, name, alpha):
    pipeline, layers = NEWER[name]
    state = integers_of(pipelines, name, tmp_path, layers)
    adapters = alpha and {"transformer.lora_alpha": alpha}
    read = pipeline.lora_state_dict(to_kohya(state, adapters, pipeline.__name__))
    scale = 1 if alpha is None else alpha / 4
    assert_same_changes(read, state, scale)
    if name != "z-image":  # its reader gives queries, keys and values the fused pair of three times the rank
        scaled = {key: value * scale if "lora_A" in key else value for key, value in state.items()}
        assert all(torch.equal(read[key], value) for key, value in scaled.items())


KREA2_BLOCKS = ("blocks.0", "blocks.1", "txtfusion.layerwise_blocks.0", "txtfusion.refiner_blocks.0")
KREA2_BLOCK = [f"attn.{name}" for name in ("wq", "wk", "wv", "wo", "gate")] + ["mlp.gate", "mlp.up", "mlp.down"]
KREA2_OUTSIDE = ["first", "last.linear", "tmlp.0", "tmlp.2", "tproj.1", "txtmlp.1", "txtmlp.3", "txtfusion.projector"]


@pytest.mark.parametrize("alpha", [None, 3])
def test_krea_2_has_the_names_of_its_release(pipelines, tmp_path, alpha):
    """diffusers reads these names too, but with the dots of the release and without alphas."""
    targets = make(pipelines / "krea2")[1].targets
    state = integers_of(pipelines, "krea2", tmp_path, [*targets, "ff.gate"])
    converted = to_kohya(state, alpha and {"transformer.lora_alpha": alpha}, "Krea2Pipeline")
    layers = [f"{block}.{layer}" for block in KREA2_BLOCKS for layer in KREA2_BLOCK] + KREA2_OUTSIDE
    named = {f"lora_unet_{layer.replace('.', '_')}": layer for layer in layers}
    assert {key.partition(".")[0] for key in converted} == named.keys()
    dotted = {}
    for flat, layer in named.items():
        scale = converted[f"{flat}.alpha"].item() / len(converted[f"{flat}.lora_down.weight"])
        dotted[f"diffusion_model.{layer}.lora_A.weight"] = converted[f"{flat}.lora_down.weight"] * scale
        dotted[f"diffusion_model.{layer}.lora_B.weight"] = converted[f"{flat}.lora_up.weight"]
    assert_same_changes(Krea2Pipeline.lora_state_dict(dotted), state, 1 if alpha is None else alpha / 4)


@pytest.mark.parametrize("name", ["flux2", "z-image", "krea2", "qwen-image"])
def test_files_without_a_record_are_told_by_their_layers(pipelines, tmp_path, name):
    state = integers_of(pipelines, name, tmp_path, None)
    pipeline = {"krea2": "Krea2Pipeline"}.get(name) or NEWER[name][0].__name__
    if name == "qwen-image":  # only the last blocks' numbers and the width tell it from SD3 and Flux.1
        layer = "transformer.transformer_blocks.59.attn.to_q.lora_"
        state = {f"{layer}A.weight": torch.ones(4, 3072), f"{layer}B.weight": torch.ones(8, 4)}
    told, known = to_kohya(state), to_kohya(state, None, pipeline)
    assert told.keys() == known.keys()


def test_training_and_convert_know_the_pipeline(flags, pipelines):
    """By its layers' names alone, a small Qwen-Image would be an SD3."""
    base = {"pretrained_model_name_or_path": pipelines / "qwen-image", "max_train_steps": 1}
    assert train(flags | base, "--use_lora", "--output_kohya_format", lora_alpha=8) == 0
    assert main(["convert", "--model", "output", "--output", "dog.safetensors"]) == 0
    written, converted = load_file(Path("output") / KOHYA), load_file("dog.safetensors")
    assert written.keys() == converted.keys() and all(torch.equal(written[key], converted[key]) for key in written)
    known = metadata("dog.safetensors")
    assert known["ss_network_module"] == "networks.lora_qwen_image" and "ss_base_model_version" not in known
    assert known["persam_pipeline"] == "QwenImagePipeline"
    read = QwenImagePipeline.lora_state_dict(written)
    state = load_file(Path("output") / DIFFUSERS)
    assert read.keys() == state.keys()
    scaled = {key: value * 8 / 4 if "lora_A" in key else value for key, value in state.items()}
    assert all(torch.equal(read[key], value) for key, value in scaled.items())


def test_model_without_kohya_names_is_still_saved(flags, tmp_path, capsys):
    """SD3's largest model has 38 blocks."""
    pipeline = random_sd3()
    deep = {"num_layers": 39, "num_attention_heads": 1, "caption_projection_dim": 8, "dual_attention_layers": ()}
    pipeline.register_modules(transformer=SD3Transformer2DModel.from_config({**pipeline.transformer.config, **deep}))
    pipeline.save_pretrained("deep")
    flags |= {"pretrained_model_name_or_path": "deep", "max_train_steps": 1}
    assert train(flags, "--use_lora", "--output_kohya_format") == 2
    assert "the transformer has transformer_blocks.38." in capsys.readouterr().err
    assert (Path("output") / DIFFUSERS).exists() and not (Path("output") / KOHYA).exists()


def test_text_encoders_keep_their_numbers(pipelines, tmp_path):
    """sd-scripts and ComfyUI only know te1 and te2 for the text encoders of a transformer."""
    _, family = make(pipelines / "sd3", {"use_lora": True, "train_text_encoder": True, "rank": 4})
    family.save(tmp_path)
    names = to_kohya(load_file(tmp_path / DIFFUSERS))
    assert {"_".join(name.split("_")[:2]) for name in names} == {"lora_unet", "lora_te1", "lora_te2"}


@pytest.mark.parametrize(
    ("layer", "channels", "expected"),
    [
        ("single_transformer_blocks.0.attn.to_q", 3072, ("networks.lora_flux", "flux1", "flux-1/lora")),
        ("single_transformer_blocks.0.attn.to_q", 32, ("networks.lora_flux", None, None)),
        ("transformer_blocks.0.attn.to_q", 2432, ("networks.lora_sd3", "5-large", "stable-diffusion-3-5-large/lora")),
        ("transformer_blocks.0.attn.to_q", 1536, ("networks.lora_sd3", None, None)),
        ("layers.0.attn.to_k", 2304, ("networks.lora_lumina", "lumina2", "lumina-2/lora")),
    ],
)
def test_metadata_has_only_known_facts(tmp_path, layer, channels, expected):
    weights = {"lora_A": torch.zeros(4, channels), "lora_B": torch.zeros(16, 4)}
    weights = {f"transformer.{layer}.{kind}.weight": value for kind, value in weights.items()}
    save_file(weights, tmp_path / DIFFUSERS, {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 2})})
    convert_file(tmp_path / DIFFUSERS, tmp_path / KOHYA, "dog", {})
    known = metadata(tmp_path / KOHYA)
    keys = ("ss_network_module", "ss_base_model_version", "modelspec.architecture")
    assert tuple(known.get(key) for key in keys) == expected
    assert known.get("ss_v2") == (None if expected[1] is None else "False")


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        *product(ORIGINALS, ("attn.to_q", "attn.to_k", "attn.to_v")),
        ("flux", "proj_mlp"),
        ("flux", "single_transformer_blocks.0.attn"),
    ],
)
def test_untrained_part_changes_nothing(pipelines, name, missing):
    whole = integer_weights(pipelines, name)
    state = {key: value for key, value in whole.items() if missing not in key}
    ours, theirs = weight_changes(state, 1), weight_changes_from_kohya(to_kohya(state), name)
    assert all(torch.equal(theirs[layer], value) for layer, value in ours.items())
    assert all(theirs[layer].count_nonzero() == 0 for layer in weight_changes(whole, 1).keys() - ours.keys())


def pair(layer, rank=4, out=8, channels=8):
    layer = f"transformer.{layer}.lora_"
    return {f"{layer}A.weight": torch.ones(rank, channels), f"{layer}B.weight": torch.ones(out, rank)}


Q, K = "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k"
SINGLE = "single_transformer_blocks.0"


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (pair(Q) | pair(K, rank=8), "joint_blocks_0_x_block_attn_qkv is one layer in kohya's format"),
        (pair(Q) | pair(K, out=16), "sizes that fit together"),
        (pair(Q) | pair(K, channels=16), "sizes that fit together"),
        (pair(f"{SINGLE}.attn.to_q") | pair(f"{SINGLE}.proj_mlp", out=16), "sizes that fit together"),
        (pair(f"{SINGLE}.proj_mlp", out=15), "sizes that fit together"),
        (pair(Q) | {f"transformer.{K}.lora_A.weight": torch.ones(4, 8)}, "to_k are not a pair .*up None"),
        (pair(Q) | {f"transformer.{Q}.lora_B.weight": torch.ones(8, 3)}, "to_q are not a pair"),
        (pair(Q) | {f"transformer.{Q}.lora_B.weight": torch.ones(8, 4, 1, 1)}, "to_q are not a pair"),
        (pair(Q) | {f"transformer.{Q}.lora_B.weight": torch.tensor(1.0)}, "to_q are not a pair"),
        (pair(Q, channels=3072), "may be Flux.1's or Qwen-Image's by their names and sizes"),
        (pair("transformer_blocks.38.attn.to_q"), "transformer_blocks.38.attn.to_q, which is not a layer of SD3"),
        (pair("transformer_blocks.60.attn.to_q", channels=3072), "transformer_blocks.60.attn.to_q, which is not"),
        (pair(Q) | pair("transformer_blocks.00.attn.to_q"), "which is not a layer of SD3"),
        (
            pair("transformer_blocks.0.norm1_context.linear"),
            "which is not a layer of SD3",
        ),  # swapped in the last block
        (pair("joint_transformer_blocks.0.attn.to_q"), "which is not a layer of SD3"),
        (pair(Q) | pair("proj_out"), "which is not a layer of SD3"),
        ({f"transformer.{Q}.lora_magnitude_vector": torch.ones(8)}, "the transformer's weights are DoRA's"),
        ({"text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight": torch.ones(4, 8)}, "has no name"),
        ({"text_encoder_3.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight": torch.ones(4, 8)}, "text_encoder_3"),
    ],
)
def test_ambiguous_weights_are_refused(weights, reason):
    with pytest.raises(UserError, match=reason):
        to_kohya(weights)
